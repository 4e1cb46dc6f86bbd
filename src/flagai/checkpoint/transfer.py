"""Bring the values of parameters to where they shall be, by the way that suits the place.

The same device and type: a view of the mapped file, nothing is moved. Another type on the CPU: cast from the mapping,
chunk by chunk, by all cores. Another device: streamed. All are announced first and moved together.
"""

from contextlib import suppress

import torch

from flagai.checkpoint.casting import cast
from flagai.checkpoint.matching import Source
from flagai.checkpoint.pages import empty_like
from flagai.checkpoint.pieces import Move
from flagai.checkpoint.stream import stream


class Transfer:
    """The copies of one load: announced by :meth:`read` and :meth:`copy`, done by :meth:`run`.

    Args:
        device: where new tensors shall be.
        size: about how many bytes of new tensors there will be.
    """

    def __init__(self, device: torch.device, size: int = 0) -> None:
        self._device = device
        self._moves: list[Move] = []
        if device.type == "cuda" and size:
            _reserve(device, size)

    def read(self, source: Source, dtype: torch.dtype, *, in_order: bool = False) -> torch.Tensor:
        """A tensor that has the values of a source after :meth:`run`; a view of the file where that is enough.

        Args:
            source: what to read.
            dtype: the type of the tensor.
            in_order: whether its rows must lie one after the other.
        """
        whole = source.dimension is None or len(source.parts) == 1
        part = source.parts[0]
        on_cpu = self._device.type == "cpu"
        if whole and on_cpu and part.dtype == dtype:
            return part.contiguous() if in_order else part
        like = part if whole and not in_order else part.new_empty(source.shape, device="meta")
        target = empty_like(like, dtype) if on_cpu else torch.empty_like(like, dtype=dtype, device=self._device)
        self.copy(source, target)
        return target

    def copy(self, source: Source, target: torch.Tensor) -> None:
        """Overwrite an existing tensor in :meth:`run`.

        Args:
            source: what to read.
            target: a tensor of the same shape, on any device.
        """
        self._moves += [Move(part, piece) for part, piece in source.pairs(target) if part.numel()]

    def run(self) -> None:
        """Do all that was announced.

        Raises:
            CheckpointError: a file ended early or cannot be read; the tensors' values are undefined then.
        """
        by_device: dict[torch.device, list[Move]] = {}
        for move in self._moves:
            by_device.setdefault(move.target.device, []).append(move)
        self._moves = []
        for device, moves in by_device.items():
            if device.type == "cpu":
                cast(moves)
            else:
                stream(moves, device)


def _reserve(device: torch.device, size: int) -> None:
    """Ask for the memory of all parameters at once: the allocator keeps it and hands it out in pieces."""
    with suppress(torch.OutOfMemoryError):  # then piece by piece may still succeed
        torch.empty(size, dtype=torch.uint8, device=device)
