"""Stream files into a device: many readers, each with its own two buffers and its own queue of copies.

A read takes as long as the copy of the buffer before it, so each reader keeps the disk (or the page cache) and the
device busy at once; staging memory is constant, whatever the model's size. Whatever fails, in whichever reader, stops
all of them, and the first failure is raised once, when nothing is in flight any more.
"""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from flagai import settings
from flagai.checkpoint.lanes import Lane, open_lane
from flagai.checkpoint.phases import phase
from flagai.checkpoint.pieces import PAGE, Chunk, Move, plan
from flagai.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamPlan:
    """How a stream reads.

    The defaults are the best found on 16 cores and one H100: 34 GB/s out of the page cache, where 8 readers gave 24,
    4 gave 15 and one 5; buffers of 4 MB were two to three times slower.

    Args:
        readers: the most threads; fewer where there are fewer cores or little to read.
        buffers: for each reader: one is filled while the other is copied.
        buffer_bytes: the size of a buffer.
    """

    readers: int = 16
    buffers: int = 2
    buffer_bytes: int = 16 << 20

    def readers_for(self, chunks: int) -> int:
        """How many readers are worth their buffers: each shall fill all of its own twice."""
        return max(1, min(self.readers, cores(), chunks // (2 * self.buffers)))


def cores() -> int:
    """How many cores this process may use: its share, if torchrun has started several on this machine."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // settings.local_world_size())


def stream(moves: Iterable[Move], device: torch.device, how: StreamPlan | None = None) -> None:
    """Copy windows of files into tensors of a device, and cast them there.

    Args:
        moves: from views of mapped files to tensors of the device.
        device: where the targets are.
        how: numbers of readers and buffers.

    Raises:
        CheckpointError: a file ended early or cannot be read. What the targets hold then is undefined.
    """
    how = how or StreamPlan()
    with phase("plan"):
        chunks, others = plan(moves, how.buffer_bytes + PAGE)
    start = time.perf_counter()
    if chunks:
        _run(chunks, device, how)
    for move in others:  # formats that cannot be mapped were read into memory as a whole
        move.target.copy_(move.source)
    seconds = time.perf_counter() - start
    size = sum(chunk.end - chunk.begin for chunk in chunks)
    logger.debug("streamed %.3f GB to %s in %.3f s, %.1f GB/s", size / 1e9, device, seconds, size / 1e9 / seconds)


def _run(chunks: Sequence[Chunk], device: torch.device, how: StreamPlan) -> None:
    count = how.readers_for(len(chunks))
    work = Work(chunks, count)
    size = how.buffer_bytes + PAGE
    readers = [_Reader(index, work, open_lane(device, how.buffers, size)) for index in range(count)]
    for reader in readers:
        reader.start()
    try:
        for reader in readers:
            reader.join()
    except BaseException:  # an interrupt from the keyboard
        work.stop()
        for reader in readers:
            reader.join()
        raise
    if work.failure is not None:
        raise work.failure


class Work:
    """What is left to read: a contiguous share for each reader; who has finished helps the one with most.

    Contiguous, because disks and the system's read-ahead are twice as fast for it as for interleaved blocks.

    Args:
        chunks: all reads, in the order of the files.
        readers: the number of shares.
    """

    def __init__(self, chunks: Sequence[Chunk], readers: int) -> None:
        borders = [len(chunks) * index // readers for index in range(readers + 1)]
        self._shares = [deque(chunks[begin:end]) for begin, end in itertools.pairwise(borders)]
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def take(self, reader: int) -> Chunk | None:
        """The next read of a reader; None if nothing is left or something has failed."""
        with self._lock:
            if self._shares[reader]:
                return self._shares[reader].popleft()
            fullest = max(self._shares, key=len)
            return fullest.pop() if fullest else None

    def stop(self, failure: BaseException | None = None) -> None:
        """Give out nothing any more; the first failure is kept."""
        with self._lock:
            self.failure = self.failure or failure
            for share in self._shares:
                share.clear()


class _Reader(threading.Thread):
    """Takes reads one by one: into a free buffer of its own, and from there to the device."""

    def __init__(self, index: int, work: Work, lane: Lane) -> None:
        super().__init__(name=f"flagai-read-{index}", daemon=True)
        self._index = index
        self._work = work
        self._lane = lane
        self._inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def run(self) -> None:
        """Work until nothing is left; a failure is handed to all."""
        try:
            with torch.inference_mode(self._inference), torch.no_grad():
                self._read_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
            self._work.stop(error)

    def _read_all(self) -> None:
        files: dict[Path, int] = {}  # of its own: the system keeps its read-ahead by descriptor
        with ExitStack() as stack:
            lane = stack.enter_context(self._lane)
            while (chunk := self._work.take(self._index)) is not None:
                if chunk.file not in files:
                    files[chunk.file] = _open(chunk.file)
                    stack.callback(os.close, files[chunk.file])
                buffer = lane.next_buffer()
                read_exactly(files[chunk.file], chunk, buffer)
                lane.send(chunk)


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}). Check who may read it.") from error


def read_exactly(descriptor: int, chunk: Chunk, buffer: memoryview) -> None:
    """Read a chunk into the beginning of a buffer.

    Raises:
        CheckpointError: the file has fewer bytes, or cannot be read.
    """
    done, size = 0, chunk.end - chunk.begin
    while done < size:
        try:
            count = os.preadv(descriptor, [buffer[done:size]], chunk.begin + done)
        except OSError as error:
            raise CheckpointError(f"{chunk.file} cannot be read ({error.strerror}). Check the disk.") from error
        if not count:
            raise CheckpointError(
                f"{chunk.file} ended at byte {chunk.begin + done} while it was read: it was cut short. Fetch it again."
            )
        done += count
