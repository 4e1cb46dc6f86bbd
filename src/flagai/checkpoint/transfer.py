"""Bring the values of parameters to where they shall be, by the way that suits the place.

The same device and type: a view of the mapped file, nothing is moved. Another type on the CPU: cast from the mapping,
chunk by chunk, by all cores. Another device: streamed. All are announced first and moved together.
"""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from flagai.checkpoint.casting import cast
from flagai.checkpoint.matching import Source
from flagai.checkpoint.pages import empty_like
from flagai.checkpoint.phases import phase
from flagai.checkpoint.pieces import Move
from flagai.checkpoint.stream import stream
from flagai.parallel import shards

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.tensor import DTensor

    from flagai.checkpoint.exchange import Swap


class Transfer:
    """The copies of one load: announced by :meth:`read` and :meth:`copy`, done by :meth:`run`.

    Args:
        device: where new tensors shall be.
        size: about how many bytes of new tensors there will be.
    """

    def __init__(self, device: torch.device, size: int = 0) -> None:
        self._device = device
        self._moves: list[Move] = []
        self._swaps: list[Swap] = []
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

    def read_part(self, source: Source, like: "DTensor") -> torch.Tensor:
        """A tensor that has this rank's part of the values of a source after :meth:`run`.

        Args:
            source: the whole.
            like: a sharded tensor, which says what the part is.
        """
        window = shards.window(like) or ()
        swap = self._swap(source, like, window) if swaps_on(self._device) else None
        if swap is None:
            # A view while the window is one piece of the file; columns of a matrix are copied out.
            return self.read(source.window(window), like.dtype, in_order=True)
        self._swaps.append(swap)
        self._moves.append(swap.read())
        return swap.target

    def _swap(self, source: Source, like: "DTensor", window: tuple[slice, ...]) -> "Swap | None":
        from flagai.checkpoint.exchange import swap_of

        if source.dimension is not None and len(source.parts) > 1:
            return None
        for cut in shards.cuts(like):
            extents = [part.stop - part.start for part in window]
            found = swap_of(source.parts[0], torch.empty(extents, dtype=like.dtype, device="meta"), window, cut)
            if found is not None:
                return replace(found, target=torch.empty(extents, dtype=like.dtype, device=self._device))
        return None

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
        if not self._swaps:
            self._copy_all()
            return
        from flagai.checkpoint.exchange import agree

        failure: Exception | None = None
        try:
            self._copy_all()
        except Exception as error:  # noqa: BLE001 - raised below, when the others are not left waiting
            failure = error
        with phase("exchange"):
            agree([*{swap.cut.ranks: None for swap in self._swaps}], self._device, failure)
            for swap in self._swaps:
                swap.run()
        self._swaps = []

    def _copy_all(self) -> None:
        by_device: dict[torch.device, list[Move]] = {}
        for move in self._moves:
            by_device.setdefault(move.target.device, []).append(move)
        self._moves = []
        for device, moves in by_device.items():
            if device.type == "cpu":
                cast(moves)
            else:
                stream(moves, device)


def swaps_on(device: torch.device) -> bool:
    """Whether ranks swap parts of matrices on a device: on CPUs, all have the file's pages in common anyway."""
    return device.type == "cuda"


def _reserve(device: torch.device, size: int) -> None:
    """Ask for the memory of all parameters at once: the allocator keeps it and hands it out in pieces."""
    with suppress(torch.OutOfMemoryError):  # then piece by piece may still succeed
        torch.empty(size, dtype=torch.uint8, device=device)
