"""Tensors [R, ...] of one entry size in one buffer: whole rows of all of them are written and read in one copy."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch

from flagai.model.layer.packed_row import on_device

# Tensors begin at multiples of so many entries: kernels read 16 bytes at a time.
_ALIGNMENT = 64
_NUMPY: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}


@dataclass(frozen=True)
class Column:
    """A tensor of a buffer.

    Args:
        name: its name.
        shape: its shape without the rows.
        dtype: its type.
        fill: what rows without a text have.
        begin: its first entry in a row that has the entries of all tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: float
    begin: int = 0

    @property
    def width(self) -> int:
        """Entries of a row: words of 4 bytes, or bytes."""
        return prod(self.shape) * max(self.dtype.itemsize // 4, 1)

    def of(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Its values in rows with the entries of all tensors, [n, entries] -> [n, *shape]."""
        own = rows[:, self.begin : self.begin + self.width].view(_NUMPY[self.dtype])
        return own.reshape(len(rows), *self.shape)


class RowBuffer:
    """Tensors of one entry size, one behind the other.

    Args:
        num_rows: R.
        columns: the tensors.
        dtype: of an entry, int32 or bool.
        device: where it is.
    """

    def __init__(self, num_rows: int, columns: Sequence[Column], dtype: torch.dtype, device: torch.device) -> None:
        self.columns: dict[str, Column] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self._dtype = dtype
        self._parts: dict[frozenset[str], tuple[list[Column], torch.Tensor]] = {}
        begin, place, places = 0, 0, []
        # The widest types first, so that they are aligned in a row, too.
        for column in sorted(columns, key=lambda each: -each.dtype.itemsize):
            self.columns[column.name] = replace(column, begin=begin)
            widths = np.full(column.width, column.width)
            places.append(np.stack([place + np.arange(column.width), widths]))
            begin += column.width
            place += -(-num_rows * column.width // _ALIGNMENT) * _ALIGNMENT
        # An even number of entries; the last ones of the buffer belong to none.
        self.width = begin + begin % 2
        places.append(np.tile([[place], [0]], self.width - begin))
        self._places = np.concatenate(places, axis=1)
        self._all = on_device(self._places, device)
        self._data = torch.zeros(place + 1, dtype=dtype, device=device)
        for column in self.columns.values():
            first = int(self._places[0, column.begin]) if column.width else 0
            own = self._data[first : first + num_rows * column.width].view(column.dtype)
            self.tensors[column.name] = own.view(num_rows, *column.shape).fill_(column.fill)
        self._empty = on_device(self.empty(1)[0], device)

    def empty(self, count: int) -> np.ndarray[Any, Any]:
        """Rows without a text, on the host, [n, entries]."""
        rows = np.zeros((count, self.width), _NUMPY[self._dtype])
        for column in self.columns.values():
            column.of(rows)[...] = column.fill
        return rows

    def put(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Set whole rows.

        Args:
            rows: [n]
            values: [n, entries]
        """
        self._data.scatter_(0, _places(self._all, rows), values.flatten())

    def clear(self, rows: torch.Tensor) -> None:
        """Empty rows, [n]."""
        self.put(rows, self._empty.expand(len(rows), -1))

    def put_entries(self, name: str, places: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """Set single entries of an int32 tensor.

        Args:
            name: the tensor.
            places: where, in the flat tensor, [n].
            values: [n]
        """
        tensor = self.tensors[name].view(-1)
        both = on_device(np.stack([places, values]), tensor.device)
        tensor.scatter_(0, both[0], both[1].to(tensor.dtype))

    def host(self, rows: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Rows of some tensors on the CPU; see :func:`to_host`.

        Args:
            rows: [n]
            names: the tensors; others than those of this buffer do not count.
        """
        chosen = frozenset(self.columns) & frozenset(names)
        if not chosen:
            return {}
        if chosen not in self._parts:
            self._parts[chosen] = self._part(chosen)
        columns, places = self._parts[chosen]
        copied = to_host(self._data.take(_places(places, rows)).view(len(rows), -1))
        found = {}
        for column in columns:
            own = copied[:, column.begin : column.begin + column.width].view(column.dtype)
            found[column.name] = own.view(len(rows), *column.shape)
        return found

    def _part(self, names: frozenset[str]) -> tuple[list[Column], torch.Tensor]:
        """Some tensors in rows that have only their entries, and where these are."""
        chosen = [column for column in self.columns.values() if column.name in names]
        begins = np.cumsum([0, *(column.width for column in chosen)])
        where = np.concatenate([np.arange(column.begin, column.begin + column.width) for column in chosen])
        where = np.concatenate([where, np.zeros(int(begins[-1]) % 2, np.int64)])  # an even number, as above
        columns = [replace(column, begin=int(begin)) for column, begin in zip(chosen, begins, strict=False)]
        return columns, on_device(self._places[:, where], self._data.device)


def _places(places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Where the entries of rows are, of all rows, [n * entries]; ``places``: of row 0, and the distance to row 1."""
    return torch.addcmul(places[0], rows[:, None], places[1]).flatten()


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a GPU it arrives when the work before it is done, without waiting."""
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True)
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
