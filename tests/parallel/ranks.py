"""Real processes that form a process group: forked, so that they start at once, and ended whatever happens."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

import pytest
import torch
from torch import distributed

import flagai.parallel.sharding  # noqa: F401 - loaded once, before the processes fork

torch.compiler.disable(print)  # loads the compiler, which distributed tensors need: once, before the processes fork
_FORK = multiprocessing.get_context("fork")


# A hang is longer than anything that a busy machine delays.
HANG = 600.0


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """Run ``work(*arguments, **options)`` on every rank of a gloo group and return what the ranks returned, by rank.

    The first error of a rank ends all of them and is shown with its traceback; so does the end of the time.

    Args:
        count: number of processes.
        work: what each does.
        *arguments: what it gets.
        **options: what it gets by name.
    """
    if torch.cuda.is_initialized():
        pytest.skip("ranks are forked, which CUDA does not allow once it is in use")
    with tempfile.TemporaryDirectory() as folder:
        answers: Any = _FORK.Queue()
        job = partial(work, *arguments, **options)
        processes = [
            _FORK.Process(target=_run, args=(rank, count, f"{folder}/store", answers, job), daemon=True)
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            return _collect(processes, answers, time.monotonic() + HANG)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(processes: list[Any], answers: Any, end: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        try:
            rank, good, value = answers.get(timeout=0.5)
        except Empty:
            died = [rank for rank, process in enumerate(processes) if process.exitcode and rank not in found]
            assert not died, f"ranks {died} died"
            assert time.monotonic() < end, f"ranks {sorted(set(range(len(processes))) - set(found))} hang"
            continue
        assert good, f"rank {rank}:\n{value}"
        found[rank] = value
    return [found[rank] for rank in range(len(processes))]


def _run(rank: int, count: int, store: str, answers: Any, work: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
    try:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        value = work()
        distributed.barrier()  # nobody leaves while others still talk to it
        answers.put((rank, True, value))
    except BaseException:  # noqa: BLE001 - shown by the parent
        answers.put((rank, False, traceback.format_exc()))
    answers.close()
    answers.join_thread()
    os._exit(0)
