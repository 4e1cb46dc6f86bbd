"""Texts that stand one after the other in one row, without padding between them.

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Self

import numpy as np
import torch

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
        """Read lengths as users write them: a sequence or a tensor of integers, or a row."""
        if isinstance(lengths, cls):
            return lengths
        numbers = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        return cls(tuple(int(number) for number in numbers))  # type: ignore[union-attr]

    @cached_property
    def total(self) -> int:
        """Number of positions, T."""
        return sum(self.lengths)

    @cached_property
    def max_seqlen(self) -> int:
        """The largest length, S."""
        return max(self.lengths)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Neighbours of equal length together: (number of texts, their length)."""
        return tuple((len(list(group)), length) for length, group in groupby(self.lengths))

    def cu_seqlens(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Where each text begins, and the end of the last, [N + 1] int32, as varlen attention takes it."""
        device = torch.device(device)
        if device not in self._cu_seqlens:
            # Kept for calls with gradients, too.
            with torch.inference_mode(False):
                starts = np.array([0, *self.lengths], dtype=np.int32).cumsum(dtype=np.int32)
                self._cu_seqlens[device] = on_device(starts, device)
        return self._cu_seqlens[device]

    @cached_property
    def _cu_seqlens(self) -> dict[torch.device, torch.Tensor]:
        return {}

    def positions(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The position of every token in its own text, [1, T]."""
        starts = self._by_token(self.cu_seqlens(device)[:-1])
        return (torch.arange(self.total, device=starts.device) - starts)[None]

    def valid(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """True at the tokens of the padded form, [N, S]."""
        lengths = self.cu_seqlens(device).diff()
        return torch.arange(self.max_seqlen, device=lengths.device) < lengths[:, None]

    def check(self, limit: int) -> None:
        """Refuse texts that are longer than ``limit``.

        Raises:
            InputError: one is; the message has its index.
        """
        check_length(self.lengths, limit)

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """The values at each text's first position, [1, T, ...] -> [N, ...]."""
        return values[0].index_select(0, self.cu_seqlens(values.device)[:-1])

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of each text's positions in float32, [1, T, width] -> [N, width]."""
        lengths = self.cu_seqlens(values.device).diff()
        # unsafe: the lengths have been checked here; checking them on a GPU would wait for it.
        return torch.segment_reduce(values[0].float(), "mean", lengths=lengths, unsafe=True)

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One tensor per text, [1, T, ...] -> N times [length, ...]; nothing is copied."""
        return values[0].split(self.lengths)

    def pad(self, values: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """One row per text, [1, T, ...] -> [N, S, ...], with ``fill`` at the padding."""
        count, size = len(self.lengths), self.max_seqlen
        # How far each text moves.
        shifts = torch.arange(0, count * size, size, device=values.device) - self.cu_seqlens(values.device)[:-1]
        places = torch.arange(self.total, device=values.device) + self._by_token(shifts)
        # One copy for all texts: a copy of each would cost a GPU's host more than the GPU.
        padded = values.new_full((count * size, *values.shape[2:]), fill)
        return padded.index_copy(0, places, values[0]).unflatten(0, (count, size))

    def _by_token(self, values: torch.Tensor) -> torch.Tensor:
        """Each text's value at all of its tokens, [N] -> [T]."""
        return values.repeat_interleave(self.cu_seqlens(values.device).diff(), output_size=self.total)


Lengths = PackedRow | Sequence[int] | torch.Tensor


def on_device(values: np.ndarray[Any, Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on a device; the host waits neither for the copy nor for the device's earlier work."""
    here = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)  # whatever the default device
    if device.type != "cuda":
        return here.to(device)
    pinned = torch.empty_like(here, device="cpu", pin_memory=True)
    # numpy copies: torch would wake all its threads, which takes milliseconds on a busy machine.
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
