"""Parts are written by several processes, one for each device; what a process that dies had begun, another one does."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from flagai.errors import FlagAIError
from flagai.jobs.answering import Answering
from flagai.jobs.folder import OutputFolder
from flagai.jobs.job import PartReport, write_part
from flagai.jobs.parts import Part

# A part that so many processes have died of is not tried again.
_MOST_DEATHS = 3

Build = Callable[[str], Answering]


class WorkerError(FlagAIError):
    """A process of a job could not begin, or died."""


@dataclass
class _Worker:
    """A process.

    Args:
        device: where it computes.
        process: the process.
        connection: to it.
        part: what it is at.
    """

    device: str
    process: BaseProcess
    connection: Connection
    part: Part | None = None


def run_pool(
    parts: Iterator[Part], build: Build, devices: Sequence[str], threads: int, folder: OutputFolder
) -> Iterator[PartReport]:
    """Write parts by one process for each device.

    Args:
        parts: the parts.
        build: makes what answers, in each process, for a device; it must be picklable.
        devices: one for each process.
        threads: of each process.
        folder: where the parts go.

    Raises:
        WorkerError: a process could not begin, or several died of the same part.
    """
    context = multiprocessing.get_context("spawn")  # a process that was forked cannot use CUDA

    def start(device: str) -> _Worker:
        mine, its = context.Pipe()
        process = context.Process(target=_work, args=(its, build, device, threads, folder), daemon=True)
        process.start()
        its.close()
        return _Worker(device, process, mine)

    workers = [start(device) for device in devices]
    again: deque[Part] = deque()
    deaths: dict[int, int] = {}
    try:
        yield from _dispatch(workers, parts, again, deaths, start)
    finally:
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _dispatch(
    workers: list[_Worker],
    parts: Iterator[Part],
    again: "deque[Part]",
    deaths: dict[int, int],
    start: Callable[[str], _Worker],
) -> Iterator[PartReport]:
    idle: list[_Worker] = []
    ended = False
    while True:
        while idle and not (ended and not again):
            part = again.popleft() if again else next(parts, None)
            if part is None:
                ended = True
                break
            worker = idle.pop()
            worker.part = part
            with suppress(OSError):  # it has died; its connection says so
                worker.connection.send(part)
        busy = [worker for worker in workers if worker not in idle]
        if not busy:
            return
        for ready in wait([worker.connection for worker in busy]):
            worker = next(each for each in busy if each.connection is ready)
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                _bury(worker, workers, again, deaths)
                workers.append(start(worker.device))
                continue
            if isinstance(answer, str):
                raise WorkerError(answer)
            worker.part = None
            idle.append(worker)
            if isinstance(answer, PartReport):
                yield answer


def _bury(worker: _Worker, workers: list[_Worker], again: "deque[Part]", deaths: dict[int, int]) -> None:
    """Take a process that has died out of the pool, and do its part anew."""
    worker.process.join()
    workers.remove(worker)
    number = -1 if worker.part is None else worker.part.number
    deaths[number] = deaths.get(number, 0) + 1
    if deaths[number] >= _MOST_DEATHS:
        what = "while it began" if worker.part is None else f"at {worker.part.name}"
        raise WorkerError(
            f"The process on {worker.device} died {_MOST_DEATHS} times {what} (exit code {worker.process.exitcode}). "
            "If memory ran out, take fewer --devices or smaller parts; the command repeated continues."
        )
    if worker.part is not None:
        again.append(worker.part)


def _work(connection: Connection, build: Build, device: str, threads: int, folder: OutputFolder) -> None:
    """The life of a process: begin, then write parts until the connection is closed."""
    try:
        import torch

        torch.set_num_threads(threads)
        answering = build(device)
        folder.agree_on_model(answering.model)
        message: Any = None
        while True:
            connection.send(message)
            message = write_part(connection.recv(), answering, folder)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except FlagAIError as error:
        with suppress(OSError):
            connection.send(str(error))
