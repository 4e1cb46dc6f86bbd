"""Rows of integers of different lengths, kept as one array: a million ids are one object, not a million."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np

from flagai.errors import InputError

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Ragged:
    """Rows that stand one after the other."""

    values: Numbers  # the numbers of all rows, [T]
    lengths: Numbers  # how many each row has, [N]

    @classmethod
    def of(cls, rows: "Sequence[Sequence[int]] | Ragged") -> "Ragged":
        """Read rows.

        Raises:
            InputError: an entry of a row is not an integer.
        """
        if isinstance(rows, Ragged):
            return rows
        # A list first, not numpy's fromiter: that would cut fractions off.
        values = np.array(list(chain.from_iterable(rows)))
        if len(values) and values.dtype.kind not in "iu":
            raise InputError(f"Token ids must be integers, but there are some of type {values.dtype}.")
        return cls(values.astype(np.int64, copy=False), np.fromiter(map(len, rows), np.int64, len(rows)))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Numbers:
        """Where each row begins, [N]."""
        return self.lengths.cumsum() - self.lengths

    def take(self, rows: Numbers) -> Self:
        """These rows, in this order."""
        lengths = self.lengths[rows]
        # Where each number comes from: it stands as far behind its row's old start as behind the new one.
        shift = np.repeat(self.starts[rows] - (lengths.cumsum() - lengths), lengths)
        return type(self)(self.values[shift + np.arange(len(shift))], lengths)

    def cut(self, length: int, side: str = "right") -> Self:
        """Every row, but no more than ``length`` numbers, dropped on the ``side`` "right" or "left"."""
        if not (self.lengths > length).any():
            return self
        place = np.arange(len(self.values)) - np.repeat(self.starts, self.lengths)
        first = 0 if side == "right" else np.repeat((self.lengths - length).clip(min=0), self.lengths)
        return type(self)(self.values[(place >= first) & (place < first + length)], self.lengths.clip(max=length))

    def between(self, first: int, last: int) -> Self:
        """Every row with a number in front of it and one behind it."""
        lengths = self.lengths + 2
        ends = lengths.cumsum()
        values = np.empty(lengths.sum(), dtype=np.int64)
        inside = np.ones(len(values), dtype=bool)
        for number, places in ((first, ends - lengths), (last, ends - 1)):
            values[places] = number
            inside[places] = False
        values[inside] = self.values
        return type(self)(values, lengths)

    def replaced(self, numbers: Sequence[int], other: int) -> Self:
        """Every row with another number in place of some."""
        if not numbers or not len(self.values) or self.values.max() < min(numbers):
            return self
        return type(self)(np.where(np.isin(self.values, list(numbers)), other, self.values), self.lengths)
