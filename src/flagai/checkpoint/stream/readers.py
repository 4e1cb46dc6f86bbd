"""Stream files into a device: many readers, each with its own two buffers and its own queue of copies.

Readers get ready (pinning buffers takes a while) and begin to read while the rest is still being planned.

A reader fills a buffer while the one before it is copied, so the disk (or the page cache) and the device are busy at
once; staging memory is constant, whatever the model's size. Whatever fails, in whichever reader, stops all of them, and
the first failure is raised once, when nothing is in flight any more.
"""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch

from flagai import settings
from flagai.checkpoint.stream.memory import FileMap
from flagai.checkpoint.stream.plan import PAGE, Chunk, Move, plan
from flagai.checkpoint.stream.staging import Lane, open_lane
from flagai.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamPlan:
    """How a stream reads.

    The defaults are the best found on 16 cores and one H100, for 20 GB out of the page cache: 0.47 s with two buffers
    of 6 MB, 0.57 of 16 MB (more than fits into the processor's cache), 0.49 to 0.59 of 4 MB and 0.77 to 0.96 of 2 MB
    (more calls for each byte).

    Args:
        readers: the most threads; fewer where there are fewer cores or little to read.
        chunk_bytes: what is planned, and taken by one reader, at once.
        buffers: for each reader: one is filled while the other is copied.
        buffer_bytes: the size of a buffer.
    """

    readers: int = 16
    chunk_bytes: int = 18 << 20
    buffers: int = 2
    buffer_bytes: int = 6 << 20

    def readers_for(self, chunks: int) -> int:
        """How many readers are worth their threads and buffers: each shall have four chunks."""
        return max(1, min(self.readers, cores(), chunks // 4))


def cores() -> int:
    """How many cores this process may use: its share, if torchrun has started several on this machine."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // settings.local_world_size())


def exactly(device: torch.device) -> torch.device:
    """A device with its number, as its tensors have it."""
    return torch.empty(0, device=device).device


def stream(moves: Iterable[Move], device: torch.device, how: StreamPlan | None = None) -> None:
    """Copy windows of files into tensors of a device, and cast them there.

    Args:
        moves: from views of mapped files to tensors of the device.
        device: where the targets are.
        how: numbers of readers and buffers.

    Raises:
        CheckpointError: a file ended early or cannot be read. What the targets hold then is undefined.
    """
    moves = list(moves)
    with Stream(device, sum(move.source.nbytes for move in moves), how) as readers:
        readers.add(moves)


class Stream:
    """Readers at work; on leaving, everything that was added has been copied.

    Args:
        device: where the targets are.
        size: about how many bytes there will be to read.
        how: numbers of readers and buffers.
    """

    def __init__(self, device: torch.device, size: int, how: StreamPlan | None = None) -> None:
        how = how or StreamPlan()
        self._device = device
        self._limit = how.chunk_bytes + PAGE
        self._files: FileMap | None = None
        self._others: list[Move] = []
        self._size = 0
        self._finished = False
        self._start = time.perf_counter()
        count = how.readers_for(-(-size // how.chunk_bytes))
        self._work = Work(count)
        # Chunks begin where pages do: so much more, and they are a whole number of buffers all the same.
        buffer = how.buffer_bytes + PAGE
        self._lanes = [open_lane(device, self._limit, how.buffers, buffer) for _ in range(count)]
        self._readers = [_Reader(index, self._work, lane) for index, lane in enumerate(self._lanes)]
        try:
            for reader in self._readers:
                reader.start()
        except BaseException:  # no thread more, or an interrupt: those that are there must not wait for ever
            self._work.stop()
            raise
        finally:
            self._work.all_are_there.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything has been copied; after an exception, until nothing is in flight any more.

        Raises:
            CheckpointError: see :meth:`finish`.
        """
        try:
            if kind is None:
                self.finish()
            else:
                self._work.stop()
        finally:
            self._wait()

    def finish(self) -> None:
        """Wait until everything has been copied; on leaving, readers have given their buffers back too.

        Raises:
            CheckpointError: a file ended early or cannot be read. What the targets hold then is undefined.
        """
        if self._finished:
            return
        self._finished = True
        self._work.close()
        self._wait(copied=True)
        if self._work.failure is not None:
            raise self._work.failure
        for move in self._others:  # formats that cannot be mapped were read into memory as a whole
            move.target.copy_(move.source)
        self._tell()

    def _tell(self) -> None:
        seconds, size = time.perf_counter() - self._start, self._size / 1e9
        logger.debug("streamed %.3f GB to %s in %.3f s, %.1f GB/s", size, self._device, seconds, size / seconds)
        marks = [reader.marks for reader in self._readers]
        last = {name: max(mark.get(name, 0.0) for mark in marks) for name in ("ready", "begun", "read", "copied")}
        told = ", ".join(f"{name} {1e3 * (at - self._start):.0f}" for name, at in last.items() if at)
        logger.debug("%d readers, ms until the last one was: %s", len(self._readers), told)

    def _wait(self, copied: bool = False) -> None:
        """Wait for all readers, or until they have copied."""
        try:
            for reader in self._readers:
                reader.copied.wait() if copied else reader.join()
        except BaseException:  # an interrupt from the keyboard
            self._work.stop()
            for reader in self._readers:
                reader.join()
            raise

    def add(self, moves: Iterable[Move]) -> None:
        """Begin to copy.

        Args:
            moves: from views of files, mapped before the first call, to tensors of the device.
        """
        if self._files is None:
            self._files = FileMap()
        chunks, others = plan(moves, self._limit, self._files)
        self._others += others
        self._size += sum(chunk.end - chunk.begin for chunk in chunks)
        self._work.inodes = self._files.inodes
        for lane in self._lanes:
            lane.follow()
        self._work.add(chunks)


class Work:
    """What is left to read: a contiguous share for each reader; who has finished helps the one with most.

    Contiguous, because disks and the system's read-ahead are twice as fast for it as for interleaved blocks.

    Args:
        readers: the number of shares.
    """

    def __init__(self, readers: int) -> None:
        self._shares: list[deque[Chunk]] = [deque() for _ in range(readers)]
        self._change = threading.Condition()
        self._closed = False
        # A thread's start needs a stack, for which it would wait until those before it have got their pages: 4 ms each.
        self.all_are_there = threading.Event()
        self.failure: BaseException | None = None
        self.inodes: dict[Path, int] = {}  # which files are meant: another may have taken a name since it was mapped

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Share out more reads.

        Args:
            chunks: in the order of the files.
        """
        count = len(self._shares)
        borders = [len(chunks) * index // count for index in range(count + 1)]
        with self._change:
            if self._closed:
                return
            for share, (begin, end) in zip(self._shares, itertools.pairwise(borders), strict=True):
                share.extend(chunks[begin:end])
            self._change.notify_all()

    def close(self) -> None:
        """Say that no more will be added."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def take(self, reader: int) -> Chunk | None:
        """The next read of a reader, when there is one; None if nothing will come or something has failed."""
        with suppress(IndexError):  # mostly there is one: no need to wait for others who ask
            return self._shares[reader].popleft()
        with self._change:
            while True:
                while fullest := self._shares[reader] or max(self._shares, key=len):
                    with suppress(IndexError):  # its reader, who does not wait, was faster
                        return fullest.popleft() if fullest is self._shares[reader] else fullest.pop()
                if self._closed:
                    return None
                self._change.wait()

    def stop(self, failure: BaseException | None = None) -> None:
        """Give out nothing any more; the first failure is kept."""
        with self._change:
            self.failure = self.failure or failure
            self._closed = True
            for share in self._shares:
                share.clear()
            self._change.notify_all()


class _Reader(threading.Thread):
    """Takes reads one by one, and has them brought to the device."""

    def __init__(self, index: int, work: Work, lane: Lane) -> None:
        super().__init__(name=f"flagai-read-{index}", daemon=True)
        self._index = index
        self._work = work
        self._lane = lane
        self.marks: dict[str, float] = {}  # when it came how far
        self.copied = threading.Event()  # nothing is in flight any more; buffers are given back after that
        self._inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def run(self) -> None:
        """Work until nothing is left; a failure is handed to all."""
        try:
            with torch.inference_mode(self._inference), torch.no_grad():
                self._read_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
            self._work.stop(error)
        finally:
            self.copied.set()

    def _read_all(self) -> None:
        files: dict[Path, int] = {}  # of its own: the system keeps its read-ahead by descriptor
        with ExitStack() as stack:
            lane = stack.enter_context(self._lane)
            self._work.all_are_there.wait()
            lane.prepare()
            self._mark("ready")
            while (chunk := self._work.take(self._index)) is not None:
                if chunk.file not in files:
                    files[chunk.file] = _open(chunk.file, self._work.inodes[chunk.file])
                    stack.callback(os.close, files[chunk.file])
                if "begun" not in self.marks:
                    self._mark("begun")
                lane.take(chunk, partial(read_exactly, files[chunk.file], chunk))
                self._mark("read")
            lane.wait()
            self._mark("copied")
            self.copied.set()

    def _mark(self, name: str) -> None:
        self.marks[name] = time.perf_counter()


def _open(file: Path, inode: int) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}). Check who may read it.") from error
    if os.fstat(descriptor).st_ino != inode:
        os.close(descriptor)
        raise CheckpointError(f"{file} was replaced by another file while it was read. Load again.")
    return descriptor


def read_exactly(descriptor: int, chunk: Chunk, begin: int, buffer: memoryview) -> None:
    """Fill a buffer with what a chunk has from its byte ``begin`` on.

    Raises:
        CheckpointError: the file has fewer bytes, or cannot be read.
    """
    begin += chunk.begin
    while buffer:
        try:
            count = os.preadv(descriptor, [buffer], begin)
        except OSError as error:
            raise CheckpointError(f"{chunk.file} cannot be read ({error.strerror}). Check the disk.") from error
        if not count:
            raise CheckpointError(
                f"{chunk.file} ended at byte {begin} while it was read: it was cut short. Fetch it again."
            )
        begin, buffer = begin + count, buffer[count:]
