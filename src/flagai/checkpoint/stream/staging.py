"""How one reader brings bytes to a device: through a buffer on the host, copied at once or on a CUDA stream."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Self

import torch

from flagai.checkpoint.stream.cuda_driver import Driver, driver
from flagai.checkpoint.stream.memory import huge_memory, populate
from flagai.checkpoint.stream.plan import Read

# Fills a buffer with the bytes of a read from one of them on.
Fill = Callable[[int, memoryview], None]


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

    It is a context of the thread that fills it; on leaving, nothing is in flight and the memory is given back.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device, self.limit = device, limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self) -> None:
        """Get memory ready, even before there is work."""
        self._memory = huge_memory(self.limit)

    def wait_for_current_stream(self) -> None:
        """Let later copies follow the work that the calling thread has queued: it has made new targets."""
        self.wait()

    def read(self, read: Read, fill: Fill) -> None:
        """Read bytes, and copy them to their targets; copies may still be in flight afterwards."""
        fill(0, memoryview(self._memory)[: read.size])
        _scatter(torch.frombuffer(self._memory, dtype=torch.uint8, count=read.size), read)

    def wait(self) -> None:
        """Wait until everything that was read has been copied."""
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and self.device.type == accelerator.type:
            torch.accelerator.synchronize(self.device)  # readers and their caller may use different queues


class CudaStagingBuffer(StagingBuffer):
    """A ring of pinned buffers and a stream: a buffer is read while the ones before it are copied.

    Buffers are a fraction of a read, small enough for all to stay in the CPU's cache: memory is read once
    then, and neither written nor read again for the bus. A slice, or values to be cast or transposed, are copied into a
    buffer on the device first, and from there by a kernel: the bus carries each byte once, in long pieces.
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
        """Wait for the stream."""
        self._stream.synchronize()

    def prepare(self) -> None:
        """Pin the buffers: in huge pages a fraction of cudaHostAlloc's time, and all readers do it at once."""
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
        """Fill buffer after buffer, and queue the copies of each."""
        staged = None if all(copy.is_plain for _, copy in read.copies) else self._device_buffer()[: read.size]
        if staged is None:
            targets = [(at, at + copy.target.nbytes, copy.target.data_ptr()) for at, copy in read.copies]
        else:
            targets = [(0, read.size, staged.data_ptr())]
        stream = self._stream.cuda_stream
        for begin in range(0, read.size, self._size):
            self._turn = (self._turn + 1) % len(self._events)
            self._driver.wait(self._events[self._turn])
            end, place = min(begin + self._size, read.size), self._turn * self._size
            fill(begin, memoryview(self._ring)[place : place + end - begin])
            for first, last, target in targets:
                low, high = max(first, begin), min(last, end)
                if low < high:
                    source = self._raw.data_ptr() + place + low - begin
                    self._driver.copy(target + low - first, source, high - low, stream)
            self._driver.record(self._events[self._turn], stream)
        if staged is not None:
            _scatter(staged, read)

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


def _scatter(raw: torch.Tensor, read: Read) -> None:
    """Copy the bytes of a read, on any device, to its targets, and cast them there."""
    for offset, copy in read.copies:
        source = copy.source
        whole = (raw.numel() - offset) // source.itemsize * source.itemsize
        elements = raw[offset : offset + whole].view(source.dtype)
        copy.target.copy_(elements.as_strided(source.shape, source.stride(), elements.storage_offset()))
