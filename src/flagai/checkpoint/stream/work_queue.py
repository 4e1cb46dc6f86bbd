"""The reads that the threads of a load have in common."""

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flagai.checkpoint.stream.plan import Read


class WorkQueue:
    """What is left to read: a contiguous share for each reader; a reader that has finished helps the slowest one.

    Contiguous, because disks and the system's read-ahead are twice as fast for it as for interleaved blocks.

    Attributes:
        shares: the reads of each reader.
        all_started: set when all readers have started. Before that none asks for pages: a thread's start needs a stack,
            and would wait for those pages, 4 ms per thread.
        failure: the first failure of a reader.
        inodes: which files are meant: another file may have taken the name since it was mapped.
    """

    def __init__(self, readers: int) -> None:
        self.shares: list[deque[Read]] = [deque() for _ in range(readers)]
        self._change = threading.Condition()
        self._closed = False
        self.all_started = threading.Event()
        self.failure: BaseException | None = None
        self.inodes: dict[Path, int] = {}

    def add(self, reads: Sequence[Read]) -> None:
        """Share out more reads, which are in the order of the files."""
        count = len(self.shares)
        borders = [len(reads) * index // count for index in range(count + 1)]
        with self._change:
            if not self._closed:
                for share, (begin, end) in zip(self.shares, itertools.pairwise(borders), strict=True):
                    share.extend(reads[begin:end])
                self._change.notify_all()

    def close(self) -> None:
        """Say that no more will be added."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def take(self, reader: int) -> Read | None:
        """The next read of a reader, as soon as there is one; None if nothing will come or a reader has failed."""
        with suppress(IndexError):  # mostly there is one: no need for the lock
            return self.shares[reader].popleft()
        with self._change:
            while True:
                while fullest := self.shares[reader] or max(self.shares, key=len):
                    with suppress(IndexError):  # its own reader, which takes no lock, was faster
                        return fullest.popleft() if fullest is self.shares[reader] else fullest.pop()
                if self._closed:
                    return None
                self._change.wait()

    def stop(self, failure: BaseException | None = None) -> None:
        """Give out nothing any more; the first failure is kept."""
        with self._change:
            self.failure = self.failure or failure
            for share in self.shares:
                share.clear()
        self.close()
