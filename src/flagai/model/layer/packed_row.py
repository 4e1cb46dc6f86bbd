"""Texts that stand one after the other in one row, without padding between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional as F

from flagai.errors import InputError


@dataclass(frozen=True)
class PackedRow:
    """Where N texts lie in one row of T positions.

    Args:
        lengths: number of positions of each text, in order.

    Raises:
        InputError: there is no text, or one has no position.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"lengths are {list(self.lengths)}; expected at least one text, and none without tokens.")

    @classmethod
    def of(cls, lengths: "Lengths") -> Self:
        """Read lengths as users write them: a sequence or a tensor of whole numbers, or a row."""
        if isinstance(lengths, cls):
            return lengths
        numbers = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        return cls(tuple(int(number) for number in numbers))  # type: ignore[union-attr]

    @cached_property
    def total(self) -> int:
        """Number of positions, T."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        """The largest length, S."""
        return max(self.lengths)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbours of equal length together: (number of texts, their length)."""
        return tuple((len(list(group)), length) for length, group in groupby(self.lengths))

    def on(self, device: torch.device | str = "cpu") -> "CuSeqlens":
        """Where the texts lie, for that device; worked out once."""
        device = torch.device(device)
        if device not in self._bounds:
            # Kept for calls with gradients, too.
            with torch.inference_mode(False):
                self._bounds[device] = CuSeqlens.of(on_device(np.array(self.lengths), device))
        return self._bounds[device]

    @cached_property
    def _bounds(self) -> "dict[torch.device, CuSeqlens]":
        return {}

    def positions(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The position of every token in its own text, [1, T]."""
        bounds = self.on(device)
        starts = bounds.starts.repeat_interleave(bounds.lengths, output_size=self.total)
        return (torch.arange(self.total, device=starts.device) - starts)[None]

    def valid(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """True at the tokens of the padded form, [N, S]."""
        lengths = self.on(device).lengths
        return torch.arange(self.longest, device=lengths.device) < lengths[:, None]

    def check(self, limit: int) -> None:
        """Refuse texts that are longer than ``limit``.

        Raises:
            InputError: one is; the message has its index.
        """
        check_length(self.lengths, limit)

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """What stands at each text's first position, [1, T, ...] -> [N, ...]."""
        return values[0].index_select(0, self.on(values.device).starts)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of each text's positions in float32, [1, T, width] -> [N, width]."""
        lengths = self.on(values.device).lengths
        # unsafe: the lengths have been checked here; checking them on a GPU would wait for it.
        return torch.segment_reduce(values[0].float(), "mean", lengths=lengths, unsafe=True)

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One tensor per text, [1, T, ...] -> N times [length, ...]; nothing is copied."""
        return values[0].split(self.lengths)

    def pad(self, values: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """One row per text, [1, T, ...] -> [N, S, ...], with ``fill`` at the padding."""
        count, bounds = len(self.lengths), self.on(values.device)
        # How far each text moves.
        shifts = torch.arange(0, count * self.longest, self.longest, device=values.device) - bounds.starts
        places = torch.arange(self.total, device=values.device)
        places += shifts.repeat_interleave(bounds.lengths, output_size=self.total)
        # One copy for all texts: by itself, each would cost a GPU's host more than the GPU.
        padded = values.new_full((count * self.longest, *values.shape[2:]), fill)
        return padded.index_copy(0, places, values[0]).unflatten(0, (count, self.longest))


Lengths = PackedRow | Sequence[int] | torch.Tensor


@dataclass(frozen=True)
class CuSeqlens:
    """Where texts lie, on a device.

    Args:
        lengths: number of positions of each text, [N].
        starts: where each begins, [N].
        offsets: the same and the end of the last one, for attention kernels, [N + 1], int32.
    """

    lengths: torch.Tensor
    starts: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor) -> Self:
        """Add lengths up."""
        ends = F.pad(lengths.cumsum(0), (1, 0))
        return cls(lengths, ends[:-1], ends.int())


def on_device(numbers: np.ndarray[Any, np.dtype[np.int64]] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers on a device; the host does not wait until they are there, nor for what the device does before."""
    here = numbers if isinstance(numbers, torch.Tensor) else torch.from_numpy(numbers)  # whatever the default device
    if device.type != "cuda":
        return here.to(device)
    pinned = torch.empty_like(here, device="cpu", pin_memory=True)
    # Not by torch, whose copy wakes all its threads: milliseconds on a machine that has other work.
    np.copyto(pinned.numpy(), here.numpy())
    return pinned.to(device, non_blocking=True)


def check_length(lengths: "Sequence[int] | np.ndarray[Any, Any]", limit: int) -> None:
    """Refuse texts that have more positions than the model's table.

    Raises:
        InputError: one has; the message has its index, its length and the limit.
    """
    found = np.asarray(lengths)
    index = int((found > limit).argmax())
    if found[index] > limit:
        raise InputError(
            f"Text {index} has {found[index]} tokens, but the model has {limit} positions. Shorten the text."
        )
