"""Several threads that do the same at the same time."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any


def together(work: Callable[[], Any], *, threads: int = 4, times: int = 1) -> list[Any]:
    """What ``work`` returned, for each thread and time; the first error of a thread is raised."""
    start = Barrier(threads)

    def repeat() -> list[Any]:
        start.wait()
        return [work() for _ in range(times)]

    with _often_interrupted(), ThreadPoolExecutor(threads) as pool:
        return [found for done in [pool.submit(repeat) for _ in range(threads)] for found in done.result()]


@contextmanager
def _often_interrupted() -> Iterator[None]:
    """Let the interpreter turn from thread to thread as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
