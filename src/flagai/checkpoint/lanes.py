"""How one reader hands its buffers to a device: at once, or behind its back on a CUDA stream."""

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any, Self

import torch

from flagai.checkpoint.pages import get_pages, huge_memory
from flagai.checkpoint.pieces import Chunk, Move


def open_lane(device: torch.device, buffers: int, size: int) -> "Lane":
    """The lane for a kind of device; called by the thread that has made the targets.

    Args:
        device: where the targets are.
        buffers: how many buffers take turns.
        size: of each, in bytes.
    """
    return (CudaLane if device.type == "cuda" else Lane)(device, buffers, size)


class Lane:
    """A ring of buffers in ordinary memory, whose content is copied when it is sent: right for any device.

    Args:
        device: where the targets are.
        buffers: how many buffers take turns.
        size: of each, in bytes.
    """

    def __init__(self, device: torch.device, buffers: int, size: int) -> None:
        self.device = device
        self.size = size
        self.ring = [huge_memory(size) for _ in range(buffers)]
        self.turn = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until nothing is in flight any more, and give the memory back."""

    def prepare(self) -> bool:
        """Get one more buffer ready, even before there is work; called by the thread that fills it.

        Returns:
            Whether one was not ready.
        """
        return False

    def follow(self) -> None:
        """Let what will be sent come after the work that the calling thread has queued: it has made new targets."""

    def next_buffer(self) -> memoryview:
        """The buffer that is to be filled next, free again."""
        self.turn = (self.turn + 1) % len(self.ring)
        self._wait()
        return memoryview(self.ring[self.turn])

    def send(self, chunk: Chunk) -> None:
        """Copy what the present buffer holds of a chunk to its targets."""
        raw = torch.frombuffer(self.ring[self.turn], dtype=torch.uint8)
        for offset, move in chunk.moves:
            move.target.copy_(inside(raw, offset, move))

    def wait(self) -> None:
        """Wait until everything that was sent has been copied."""

    def _wait(self) -> None:
        """Wait until the present buffer may be filled."""


@cache
def _driver_copy() -> Any:
    """The driver's copy to a device on a stream; None where it cannot be called.

    Torch gives Python's lock away in every operation. Sixteen readers that each take it back ten times for a chunk
    spend much of their time on waking each other. This is one call, which keeps the lock for its microseconds.
    """
    try:
        copy = ctypes.PyDLL("libcuda.so.1").cuMemcpyHtoDAsync_v2
    except (OSError, AttributeError):
        return None
    copy.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    copy.restype = ctypes.c_int
    return copy


class CudaLane(Lane):
    """A ring of pinned buffers and a stream: sending returns at once, and a buffer waits for its own copies only.

    What is cast, transposed or cut is copied into a buffer on the device first, and from there by a kernel: the bus
    carries each byte once, in long pieces.
    """

    def __init__(self, device: torch.device, buffers: int, size: int) -> None:
        super().__init__(device, buffers, size)
        self._made_on = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device)
        self._copied = [torch.cuda.Event(blocking=True) for _ in range(buffers)]  # one that was never recorded is over
        self._raw: list[torch.Tensor] = []  # the buffers that are pinned, in the order of their turns
        self._on_device: list[torch.Tensor | None] = [None] * buffers
        self._at_exit = ExitStack()

    def __enter__(self) -> Self:
        self._at_exit.enter_context(torch.cuda.stream(self._stream))  # the thread's, with its device
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for all copies, and unpin the memory; a failed copy is raised after that."""
        with self._at_exit:
            try:
                self.wait()
            finally:
                for raw in self._raw:
                    with suppress(RuntimeError):  # the device has failed, and that is being said already
                        torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(raw.data_ptr()))

    def wait(self) -> None:
        """See the base class."""
        self._stream.synchronize()

    def prepare(self) -> bool:
        """Pin a buffer; at the latest when its turn comes, so that reading begins after a part of the time.

        In huge pages it takes a fraction of cudaHostAlloc's time, and all readers do it at once.
        """
        if len(self._raw) == len(self.ring):
            return False
        memory = self.ring[len(self._raw)]
        get_pages(memory)
        raw = torch.frombuffer(memory, dtype=torch.uint8)
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(raw.data_ptr(), self.size, 0))
        self._raw.append(raw)
        return True

    def follow(self) -> None:
        """The targets' memory may have had users before: what is queued for them comes first."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def _wait(self) -> None:
        if self.turn == len(self._raw):  # its first turn
            self.prepare()
        if not self._copied[self.turn].query():  # waiting gives Python's lock away
            self._copied[self.turn].synchronize()

    def send(self, chunk: Chunk) -> None:
        """Queue the copies of a chunk."""
        raw = self._raw[self.turn]
        rest = []
        for offset, move in chunk.moves:
            if move.is_plain:
                self._copy(raw, offset, move)
            else:
                rest.append((offset, move))
        if rest:
            self._rearrange(raw[: chunk.end - chunk.begin], rest)
        self._copied[self.turn].record(self._stream)

    def _copy(self, raw: torch.Tensor, offset: int, move: Move) -> None:
        """Queue the copy of bytes that stay as they are."""
        copy, target = _driver_copy(), move.target
        if copy is None:
            target.copy_(inside(raw, offset, move), non_blocking=True)
            return
        failed = copy(target.data_ptr(), raw.data_ptr() + offset, target.nbytes, self._stream.cuda_stream)
        if failed:
            raise RuntimeError(f"CUDA error: a copy to {self.device} failed with the driver's code {failed}.")

    def _rearrange(self, raw: torch.Tensor, moves: Sequence[tuple[int, Move]]) -> None:
        staged = self._staging()
        staged[: raw.numel()].copy_(raw, non_blocking=True)
        for offset, move in moves:
            move.target.copy_(inside(staged, offset, move))

    def _staging(self) -> torch.Tensor:
        """The buffer on the device, from the memory of the stream in use, to which it goes back in the end."""
        staged = self._on_device[self.turn]
        if staged is None:
            with torch.cuda.stream(self._made_on):
                staged = torch.empty(self.size, dtype=torch.uint8, device=self.device)
            self._stream.wait_stream(self._made_on)
            self._on_device[self.turn] = staged
        return staged


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
