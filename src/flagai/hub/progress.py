"""Show how a download goes: a bar on a terminal, elsewhere a line in the log now and then, which commands print."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
Advance = Callable[[int], None]
_EVERY = 10.0


@contextmanager
def progress(name: str, total: int | None) -> Iterator[Advance]:
    """Show the progress of a download of ``total`` bytes while the block runs.

    Yields:
        A function to tell the number of bytes that came; negative when bytes are thrown away.
    """
    if sys.stderr.isatty():
        with _bar(name, total) as show:
            yield show
        return
    count, begin, lock = 0, time.monotonic(), threading.Lock()
    told = begin

    def advance(more: int) -> None:
        nonlocal count, told
        with lock:
            count += more
            if (now := time.monotonic()) - told > _EVERY:
                told = now
                speed = readable(round(count / (now - begin)))
                logger.info("%s: %s of %s, %s per second", name, readable(count), readable(total), speed)

    yield advance


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda more: bar.advance(task, more)


def readable(size: int | None) -> str:
    """A number of bytes for people, in powers of 1000 as disks and networks count."""
    if size is None:
        return "unknown size"
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
