"""Stream files to a device: a pool of threads, each with its own staging buffers and its own queue of copies.

Readers get ready (pinning buffers takes a while) and begin to read while the rest is still being planned.

A reader fills a buffer while the one before it is copied, so the disk (or the page cache) and the device are busy at
once; staging memory is constant, whatever the model's size. A failure of one reader stops all of them, and the first
failure is raised once, when nothing is in flight any more.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch

from flagai import settings
from flagai.checkpoint.mapped_files import FileMap
from flagai.checkpoint.stream.plan import PAGE, Copy, Read, plan_reads
from flagai.checkpoint.stream.staging import StagingBuffer, staging_buffer
from flagai.checkpoint.stream.work_queue import WorkQueue
from flagai.errors import CheckpointError
from flagai.system import open_descriptor, usable_cores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReaderOptions:
    """Numbers and sizes of a pool of readers.

    The defaults are the best found on 16 cores and one H100, for 20 GB out of the page cache: 0.47 s with two buffers
    of 6 MB, 0.57 of 16 MB (more than fits into the CPU's cache), 0.49 to 0.59 of 4 MB and 0.77 to 0.96 of 2 MB
    (more calls for each byte).

    Args:
        readers: the most threads; fewer where there are fewer cores or little to read.
        read_bytes: what is planned, and taken by one reader, at once.
        buffers: for each reader: one is filled while the other is copied.
        buffer_bytes: the size of a buffer.
    """

    readers: int = 16
    read_bytes: int = 18 << 20
    buffers: int = 2
    buffer_bytes: int = 6 << 20

    def readers_for(self, reads: int) -> int:
        """How many readers are worth their threads and buffers: each should have four reads."""
        return max(1, min(self.readers, available_cores(), reads // 4))


def available_cores() -> int:
    """How many cores this process may use: its share, if torchrun has started several on this machine."""
    return max(1, usable_cores() // settings.local_world_size())


def with_index(device: torch.device) -> torch.device:
    """A device with its index, as its tensors have it."""
    return torch.empty(0, device=device).device


class ReaderPool:
    """Readers at work; on leaving, everything that was added has been copied.

    Args:
        device: of the targets.
        size: about how many bytes there will be to read.
        options: numbers and sizes.
    """

    def __init__(self, device: torch.device, size: int, options: ReaderOptions | None = None) -> None:
        options = options or ReaderOptions()
        self._device, self._limit = device, options.read_bytes + PAGE
        self._files: FileMap | None = None
        self._others: list[Copy] = []
        self._size, self._finished = 0, False
        self._start = time.perf_counter()
        count = options.readers_for(-(-size // options.read_bytes))
        self._work = WorkQueue(count)
        # Reads begin where pages do: one page more, and they are an integer of buffers all the same.
        buffer_bytes = options.buffer_bytes + PAGE
        self._buffers = [staging_buffer(device, self._limit, options.buffers, buffer_bytes) for _ in range(count)]
        self._readers = [_FileReader(index, self._work, buffer) for index, buffer in enumerate(self._buffers)]
        try:
            for reader in self._readers:
                reader.start()
        except BaseException:  # no thread more, or an interrupt: the readers that run must not wait for ever
            self._work.stop()
            raise
        finally:
            self._work.all_started.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything has been copied; after an exception, until nothing is in flight any more."""
        try:
            if kind is None:
                self.finish()
            else:
                self._work.stop()
        finally:
            self._wait()

    def add(self, copies: Iterable[Copy]) -> None:
        """Begin to copy from views of files, mapped before the first call, to tensors of the device."""
        self._files = self._files or FileMap()
        reads, others = plan_reads(copies, self._limit, self._files)
        self._others += others
        self._size += sum(read.size for read in reads)
        self._work.inodes = self._files.inodes
        for buffer in self._buffers:
            buffer.wait_for_current_stream()
        self._work.add(reads)

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
        for copy in self._others:  # formats that cannot be mapped were read into memory as a whole
            copy.target.copy_(copy.source)
        seconds, size = time.perf_counter() - self._start, self._size / 1e9
        logger.debug("streamed %.3f GB to %s in %.3f s, %.1f GB/s", size, self._device, seconds, size / seconds)
        marks = [reader.marks for reader in self._readers]
        last = {name: max(mark.get(name, 0.0) for mark in marks) for name in ("ready", "begun", "read", "copied")}
        times = ", ".join(f"{name} {1e3 * (at - self._start):.0f}" for name, at in last.items() if at)
        logger.debug("%d readers, ms until the last one was: %s", len(self._readers), times)

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


class _FileReader(threading.Thread):
    """Takes reads one by one, and has them brought to the device."""

    def __init__(self, index: int, work: WorkQueue, buffer: StagingBuffer) -> None:
        super().__init__(name=f"flagai-read-{index}", daemon=True)
        self._index = index
        self._work = work
        self._buffer = buffer
        self.marks: dict[str, float] = {}  # the time of each of its stages
        self.copied = threading.Event()  # nothing is in flight any more; buffers are given back after that
        self._inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def run(self) -> None:
        """Read until nothing is left; a failure stops all readers."""
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
            buffer = stack.enter_context(self._buffer)
            self._work.all_started.wait()
            buffer.prepare()
            self.marks["ready"] = time.perf_counter()
            while (read := self._work.take(self._index)) is not None:
                if read.file not in files:
                    files[read.file] = _open(read.file, self._work.inodes[read.file])
                    stack.callback(os.close, files[read.file])
                self.marks.setdefault("begun", time.perf_counter())
                buffer.read(read, partial(_read_exactly, files[read.file], read))
                self.marks["read"] = time.perf_counter()
            buffer.wait()
            self.marks["copied"] = time.perf_counter()
            self.copied.set()


def _open(file: Path, inode: int) -> int:
    try:
        descriptor = open_descriptor(file, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}). Check who may read it.") from error
    if os.fstat(descriptor).st_ino != inode:
        os.close(descriptor)
        raise CheckpointError(f"{file} was replaced by another file while it was read. Load again.")
    return descriptor


def _read_exactly(descriptor: int, read: Read, begin: int, buffer: memoryview) -> None:
    """Fill a buffer with the bytes of a read from its byte ``begin`` on."""
    begin += read.begin
    while buffer:
        try:
            count = os.preadv(descriptor, [buffer], begin)
        except OSError as error:
            raise CheckpointError(f"{read.file} cannot be read ({error.strerror}). Check the disk.") from error
        if not count:
            raise CheckpointError(
                f"{read.file} ended at byte {begin} while it was read: it was cut short. Download it again."
            )
        begin, buffer = begin + count, buffer[count:]
