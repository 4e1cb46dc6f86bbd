"""How one reader brings bytes to a device: at once, or behind its back on a CUDA stream."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import torch

from flagai.checkpoint.stream.cuda_driver import Driver, driver
from flagai.checkpoint.stream.memory import get_pages, huge_memory
from flagai.checkpoint.stream.plan import Chunk, Move

# Fills a buffer with what a chunk has from a byte on.
Read = Callable[[int, memoryview], None]
# A range of a chunk's bytes, and the address where they shall be.
Destination = tuple[int, int, int]


def open_lane(device: torch.device, limit: int, buffers: int, size: int) -> "Lane":
    """The lane for a kind of device; called by the thread that has made the targets.

    Args:
        device: where the targets are.
        limit: the bytes of the largest chunk.
        buffers: how many buffers take turns where copies are queued.
        size: of each of these, in bytes.
    """
    calls = driver() if device.type == "cuda" else None
    return Lane(device, limit) if calls is None else CudaLane(device, limit, buffers, size, calls)


class Lane:
    """A buffer in ordinary memory, whose content is copied when it is full: right for any device.

    Args:
        device: where the targets are.
        limit: the bytes of the largest chunk.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device = device
        self.limit = limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until nothing is in flight any more, and give the memory back."""

    def prepare(self) -> None:
        """Get buffers ready, even before there is work; called by the thread that fills them."""
        self._memory = huge_memory(self.limit)

    def follow(self) -> None:
        """Let what will be taken come after the work that the calling thread has queued: it has made new targets."""
        self.wait()

    def take(self, chunk: Chunk, read: Read) -> None:
        """Read a chunk, and bring it to its targets.

        Args:
            chunk: what to read.
            read: what fills a buffer.
        """
        size = chunk.end - chunk.begin
        read(0, memoryview(self._memory)[:size])
        spread(torch.frombuffer(self._memory, dtype=torch.uint8, count=size), chunk)

    def wait(self) -> None:
        """Wait until everything that was taken has been copied."""
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and self.device.type == accelerator.type:
            torch.accelerator.synchronize(self.device)  # readers and their caller may use different queues


class CudaLane(Lane):
    """A ring of pinned buffers and a stream: a buffer is read while the ones before it are copied.

    Buffers are a fraction of a chunk, small enough for all to stay in the processor's cache: memory is read once
    then, and neither written nor read again for the bus. What is cast, transposed or cut is copied into a buffer on
    the device first, and from there by a kernel: the bus carries each byte once, in long pieces.

    Args:
        device: where the targets are.
        limit: the bytes of the largest chunk.
        buffers: how many buffers take turns.
        size: of each, in bytes.
        calls: of the driver.
    """

    def __init__(self, device: torch.device, limit: int, buffers: int, size: int, calls: Driver) -> None:
        super().__init__(device, limit)
        self._size, self._driver = size, calls
        self._made_on = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device)
        self._ring = huge_memory(buffers * size)
        self._raw = torch.frombuffer(self._ring, dtype=torch.uint8)
        self._events = [0] * buffers  # when each buffer has been copied
        self._turn = -1
        self._on_device: torch.Tensor | None = None
        self._at_exit = ExitStack()

    def __enter__(self) -> Self:
        self._at_exit.enter_context(torch.cuda.stream(self._stream))  # the thread's, with its device
        return self

    def __exit__(self, *raised: Any) -> None:
        """Wait for all copies, and unpin the memory; a failed copy is raised after that."""
        self._at_exit.callback(self.wait)
        self._at_exit.__exit__(*raised)

    def wait(self) -> None:
        """See the base class."""
        self._stream.synchronize()

    def prepare(self) -> None:
        """Pin the buffers.

        In huge pages it takes a fraction of cudaHostAlloc's time, and all readers do it at once.
        """
        get_pages(self._ring)
        address = self._raw.data_ptr()
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, len(self._ring), 0))
        self._at_exit.callback(_quietly, _unpin, address)
        for index in range(len(self._events)):
            self._events[index] = event = self._driver.make_event()
            self._at_exit.callback(_quietly, self._driver.free_event, event)

    def follow(self) -> None:
        """The targets' memory may have had users before: what is queued for them comes first."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def take(self, chunk: Chunk, read: Read) -> None:
        """See the base class; copies may still be under way."""
        size = chunk.end - chunk.begin
        staged = None if all(move.is_plain for _, move in chunk.moves) else self._staging()[:size]
        if staged is None:
            places = [(at, at + move.target.nbytes, move.target.data_ptr()) for at, move in chunk.moves]
        else:
            places = [(0, size, staged.data_ptr())]
        for begin in range(0, size, self._size):
            self._turn = (self._turn + 1) % len(self._events)
            self._driver.wait(self._events[self._turn])
            end, first = min(begin + self._size, size), self._turn * self._size
            read(begin, memoryview(self._ring)[first : first + end - begin])
            self._send(begin, end, places)
        if staged is not None:
            spread(staged, chunk)

    def _send(self, begin: int, end: int, places: Sequence[Destination]) -> None:
        """Queue the copies of what the present buffer holds: a chunk's bytes from ``begin`` to ``end``."""
        stream, source = self._stream.cuda_stream, self._raw.data_ptr() + self._turn * self._size - begin
        for first, last, target in places:
            low, high = max(first, begin), min(last, end)
            if low < high:
                self._driver.copy(target + low - first, source + low, high - low, stream)
        self._driver.record(self._events[self._turn], stream)

    def _staging(self) -> torch.Tensor:
        """The buffer on the device, from the memory of the stream in use, to which it goes back in the end."""
        if self._on_device is None:
            with torch.cuda.stream(self._made_on):
                self._on_device = torch.empty(self.limit, dtype=torch.uint8, device=self.device)
            self._stream.wait_stream(self._made_on)
        return self._on_device


def _quietly(work: Callable[[int], None], given: int) -> None:
    with suppress(RuntimeError):  # the device has failed, and that is being said already
        work(given)


def _unpin(address: int) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


def spread(raw: torch.Tensor, chunk: Chunk) -> None:
    """Copy what a chunk's bytes hold to its targets, and cast it there.

    Args:
        raw: the bytes, on any device.
        chunk: says where the targets' sources begin.
    """
    for offset, move in chunk.moves:
        move.target.copy_(inside(raw, offset, move))


def inside(raw: torch.Tensor, offset: int, move: Move) -> torch.Tensor:
    """The source of a move, as it lies in the bytes that were read.

    Args:
        raw: the bytes.
        offset: where the source begins in them.
        move: tells shape, order and type.
    """
    source = move.source
    elements = raw[offset : offset + (raw.numel() - offset) // source.itemsize * source.itemsize].view(source.dtype)
    return elements.as_strided(source.shape, source.stride(), elements.storage_offset())
