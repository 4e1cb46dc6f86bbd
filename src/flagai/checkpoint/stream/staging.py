"""How one reader brings bytes to a device: through a buffer on the host, copied at once or on a CUDA stream."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import torch

from flagai.checkpoint.stream.cuda_driver import Driver, driver
from flagai.checkpoint.stream.memory import huge_memory, populate
from flagai.checkpoint.stream.plan import Copy, Read

# Fills a buffer with the bytes of a read from one of them on.
Fill = Callable[[int, memoryview], None]
# A range of a read's bytes, and the address that they are copied to.
Destination = tuple[int, int, int]


def staging_buffer(device: torch.device, limit: int, buffers: int, size: int) -> "StagingBuffer":
    """The buffer for a kind of device; called by the thread that has made the targets.

    Args:
        device: of the targets.
        limit: the bytes of the largest read.
        buffers: how many buffers a CUDA device uses in turn.
        size: of each of these, in bytes.
    """
    calls = driver() if device.type == "cuda" else None
    return StagingBuffer(device, limit) if calls is None else CudaStagingBuffer(device, limit, buffers, size, calls)


class StagingBuffer:
    """A buffer in ordinary memory, whose content is copied when it is full: right for any device.

    Args:
        device: of the targets.
        limit: the bytes of the largest read.
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

    def wait_for_current_stream(self) -> None:
        """Let later copies follow the work that the calling thread has queued: it has made new targets."""
        self.wait()

    def read(self, read: Read, fill: Fill) -> None:
        """Read bytes, and copy them to their targets.

        Args:
            read: what to read.
            fill: fills a buffer.
        """
        fill(0, memoryview(self._memory)[: read.size])
        scatter(torch.frombuffer(self._memory, dtype=torch.uint8, count=read.size), read)

    def wait(self) -> None:
        """Wait until everything that was read has been copied."""
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and self.device.type == accelerator.type:
            torch.accelerator.synchronize(self.device)  # readers and their caller may use different queues


class CudaStagingBuffer(StagingBuffer):
    """A ring of pinned buffers and a stream: a buffer is read while the ones before it are copied.

    Buffers are a fraction of a read, small enough for all to stay in the processor's cache: memory is read once
    then, and neither written nor read again for the bus. A slice, or values to be cast or transposed, are copied into a
    buffer on the device first, and from there by a kernel: the bus carries each byte once, in long pieces.

    Args:
        device: of the targets.
        limit: the bytes of the largest read.
        buffers: how many buffers are used in turn.
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
        populate(self._ring)
        address = self._raw.data_ptr()
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, len(self._ring), 0))
        self._at_exit.callback(_quietly, _unpin, address)
        for index in range(len(self._events)):
            self._events[index] = event = self._driver.make_event()
            self._at_exit.callback(_quietly, self._driver.free_event, event)

    def wait_for_current_stream(self) -> None:
        """The targets' memory may have had users before: what is queued for them comes first."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def read(self, read: Read, fill: Fill) -> None:
        """See the base class; copies may still be in flight afterwards."""
        staged = None if all(copy.is_plain for _, copy in read.copies) else self._device_buffer()[: read.size]
        if staged is None:
            destinations = [(at, at + copy.target.nbytes, copy.target.data_ptr()) for at, copy in read.copies]
        else:
            destinations = [(0, read.size, staged.data_ptr())]
        for begin in range(0, read.size, self._size):
            self._turn = (self._turn + 1) % len(self._events)
            self._driver.wait(self._events[self._turn])
            end, first = min(begin + self._size, read.size), self._turn * self._size
            fill(begin, memoryview(self._ring)[first : first + end - begin])
            self._send(begin, end, destinations)
        if staged is not None:
            scatter(staged, read)

    def _send(self, begin: int, end: int, destinations: Sequence[Destination]) -> None:
        """Queue the copies of the present buffer, which holds a read's bytes from ``begin`` to ``end``."""
        stream, source = self._stream.cuda_stream, self._raw.data_ptr() + self._turn * self._size - begin
        for first, last, target in destinations:
            low, high = max(first, begin), min(last, end)
            if low < high:
                self._driver.copy(target + low - first, source + low, high - low, stream)
        self._driver.record(self._events[self._turn], stream)

    def _device_buffer(self) -> torch.Tensor:
        """The buffer on the device, from the memory of the stream in use, to which it goes back in the end."""
        if self._on_device is None:
            with torch.cuda.stream(self._made_on):
                self._on_device = torch.empty(self.limit, dtype=torch.uint8, device=self.device)
            self._stream.wait_stream(self._made_on)
        return self._on_device


def _quietly(work: Callable[[int], None], given: int) -> None:
    with suppress(RuntimeError):  # the device has failed, and that is being raised already
        work(given)


def _unpin(address: int) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


def scatter(raw: torch.Tensor, read: Read) -> None:
    """Copy the bytes of a read to its targets, and cast them there.

    Args:
        raw: the bytes, on any device.
        read: says where the targets' sources begin.
    """
    for offset, copy in read.copies:
        copy.target.copy_(source_in(raw, offset, copy))


def source_in(raw: torch.Tensor, offset: int, copy: Copy) -> torch.Tensor:
    """The source of a copy as a view of the bytes that were read.

    Args:
        raw: the bytes.
        offset: where the source begins in them.
        copy: tells shape, order and type.
    """
    source = copy.source
    elements = raw[offset : offset + (raw.numel() - offset) // source.itemsize * source.itemsize].view(source.dtype)
    return elements.as_strided(source.shape, source.stride(), elements.storage_offset())
