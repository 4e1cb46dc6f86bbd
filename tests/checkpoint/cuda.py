"""CUDA's runtime, streams and driver on a machine without a GPU."""

import ctypes
import itertools
import threading
from collections.abc import Callable
from functools import partial


class Runtime:
    """Counts what is pinned, and refuses from the ``refused``-th request on."""

    def __init__(self) -> None:
        self.pinned: set[int] = set()
        self.sizes: list[int] = []
        self.requests = 0
        self.refused: int | None = None
        self._lock = threading.Lock()

    def cudaHostRegister(self, address: int, size: int, _flags: int) -> int:  # noqa: N802 - CUDA's name
        with self._lock:
            self.requests += 1
            if self.refused is not None and self.requests > self.refused:
                return 2
            self.pinned.add(address)
            self.sizes.append(size)
            return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - CUDA's name
        with self._lock:
            self.pinned.remove(address)
        return 0


class Queue:
    """A stream of a device that has always just finished."""

    def __init__(self, *_: object, **__: object) -> None:
        self.cuda_stream = 7

    def synchronize(self, *_: object) -> None:
        pass

    wait_stream = synchronize


class Calls:
    """The driver's calls, done at once; which buffers wait for what is written down."""

    def __init__(self) -> None:
        self.copies: list[tuple[int, int]] = []
        self.targets: list[int] = []
        self.events: dict[int, int] = {}  # how often each was recorded
        self.waits: list[tuple[int, int]] = []
        self.refuses = False
        self._numbers = itertools.count(1)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        assert stream == 7
        if self.refuses:
            raise RuntimeError("CUDA error: a copy to the device failed with the driver's code 700.")
        ctypes.memmove(target, source, size)
        self.copies.append((source, size))
        self.targets.append(target)

    def make_event(self) -> int:
        number = next(self._numbers)
        self.events[number] = 0
        return number

    def free_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        assert stream == 7
        self.events[event] += 1

    def wait(self, event: int) -> None:
        self.waits.append((event, self.events[event]))


class LateCalls(Calls):
    """The same, done only when somebody waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Callable[[], None] | int] = []

    def copy(self, *given: int) -> None:
        self.queue.append(partial(super().copy, *given))

    def record(self, event: int, stream: int) -> None:
        super().record(event, stream)
        self.queue.append(event)

    def wait(self, event: int) -> None:
        super().wait(event)
        while event in self.queue:
            self._step()

    def finish(self, *_: object) -> None:
        while self.queue:
            self._step()

    def _step(self) -> None:
        first = self.queue.pop(0)
        if callable(first):
            first()
