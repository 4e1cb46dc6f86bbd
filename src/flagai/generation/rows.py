"""Tensors with one entry for each text of a batch, whose texts come and go."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import torch

from flagai.device_support import widest_float
from flagai.generation.row_buffer import Column, RowBuffer
from flagai.model.layer.packed_row import on_device


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch's tensors.

    Args:
        rows: texts, R.
        lanes: answers, candidates or draft tokens of each, W.
        text: tokens of a prompt.
        steps: tokens of an answer, start tokens included.
        table: slots of a lane, L.
        blanks: blanks of a prompt.
        cross: tokens of an encoder's text.
    """

    rows: int
    lanes: int
    text: int = 1
    steps: int = 1
    table: int = 1
    blanks: int = 1
    cross: int = 0

    def __or__(self, other: "Sizes") -> "Sizes":
        """The larger of each."""
        return Sizes(*map(max, astuple(self), astuple(other)))


class RowTensors:
    """An owner of tensors whose first dimension is the rows of a batch.

    A step may replace a tensor by a new one (``self.length = self.length + 1``); before texts come, go or are read,
    :meth:`settle` brings what has changed back to where the tensor was allocated.

    Args:
        sizes: the sizes.
        device: where they are.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes = sizes
        self.device = device
        self._columns: dict[str, Column] = {}
        self._buffers: list[RowBuffer] = []
        self._staged: list[np.ndarray[Any, Any]] = []  # rows of new texts, for each buffer

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors."""
        return tuple(self._columns)

    def add(self, name: str, *shape: int, dtype: torch.dtype = torch.long, fill: float = 0) -> torch.Tensor:
        """Declare a tensor [R, *shape], the attribute of this name after :meth:`allocate`.

        Args:
            name: its name.
            *shape: its shape without the rows.
            dtype: its type; float64 is float32 on a device that has no other.
            fill: what rows without a text have.
        """
        dtype = widest_float(self.device) if dtype == torch.float64 else dtype
        self._columns[name] = Column(name, shape, dtype, fill)
        return torch.empty(0, dtype=dtype)

    def allocate(self) -> None:
        """Make the tensors that have been declared."""
        self._buffers = []
        for entry in (torch.int32, torch.bool):
            own = [each for each in self._columns.values() if (each.dtype == torch.bool) == (entry == torch.bool)]
            self._buffers.append(RowBuffer(self.sizes.rows, own, entry, self.device))
        for buffer in self._buffers:
            for name, tensor in buffer.tensors.items():
                setattr(self, name, tensor)

    def index(self, rows: Sequence[int]) -> torch.Tensor:
        """Numbers of rows on the device, without waiting for it, [n]."""
        return on_device(np.array(rows, dtype=np.int64), self.device)

    def settle(self, names: Collection[str] | None = None) -> None:
        """Copy tensors that a step has replaced to where they were allocated.

        Args:
            names: which; default all.
        """
        # Together, one kernel for each dtype instead of one for each tensor.
        moved: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for buffer in self._buffers:
            for name, tensor in buffer.tensors.items():
                new = getattr(self, name)
                if new is not tensor and (names is None or name in names):
                    kept, values = moved.setdefault(tensor.dtype, ([], []))
                    kept.append(tensor)
                    values.append(new)
                    setattr(self, name, tensor)
        for kept, values in moved.values():
            torch._foreach_copy_(kept, values)

    def clear(self, rows: torch.Tensor) -> None:
        """Take texts out.

        Args:
            rows: [n]
        """
        self.settle()
        for buffer in self._buffers:
            buffer.clear(rows)

    def stage(self, count: int) -> None:
        """Begin to put texts into rows: their values are collected on the host, and are zeros or fills at first.

        Args:
            count: how many texts, n.
        """
        self._staged = [buffer.empty(count) for buffer in self._buffers]

    def staged(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor's values for the new texts, to be written, [n, ...]."""
        for buffer, rows in zip(self._buffers, self._staged, strict=True):
            if name in buffer.columns:
                return buffer.columns[name].of(rows)
        raise KeyError(name)

    def put(self, **values: Sequence[Any]) -> None:
        """Set the first entries of tensors for the new texts.

        Args:
            **values: a tensor's name and for each text a number, or a sequence (the last dimension, which broadcasts
                over the ones before).
        """
        for name, given in values.items():
            staged = self.staged(name)
            if staged.ndim == 1 or np.ndim(given[0]) == 0:
                staged.reshape(len(staged), -1)[...] = np.array(given)[:, None]
                continue
            for row, value in zip(staged, given, strict=True):
                row[..., : len(value)] = value

    def commit(self, rows: torch.Tensor) -> None:
        """Bring the values of the new texts to the device.

        Args:
            rows: where the texts are, [n].
        """
        self.settle()
        for buffer, values in zip(self._buffers, self._staged, strict=True):
            if buffer.columns:
                buffer.put(rows, on_device(values, self.device))
        self._staged = []

    def put_entries(self, name: str, places: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """Set single entries of an int32 tensor.

        Args:
            name: the tensor.
            places: where, in the flat tensor, [n].
            values: [n]
        """
        self.settle((name,))
        next(each for each in self._buffers if name in each.columns).put_entries(name, places, values)

    def take(self, other: "RowTensors", rows: torch.Tensor) -> None:
        """Take over some rows of a batch whose tensors are no larger, as the first ones.

        Args:
            other: the batch.
            rows: [n]
        """
        self.settle()
        for name in self.names:
            old = getattr(other, name).index_select(0, rows)
            getattr(self, name)[tuple(map(slice, old.shape))] = old

    def on_host(self, rows: torch.Tensor, names: Collection[str]) -> Self:
        """A copy that has rows of some tensors, on the CPU.

        Args:
            rows: [n]
            names: which tensors.
        """
        self.settle(names)
        found = copy.copy(self)
        for buffer in self._buffers:
            for name, tensor in buffer.host(rows, names).items():
                setattr(found, name, tensor)
        return found

    def twin(self) -> Self:
        """A copy with tensors of its own."""
        self.settle()
        found = copy.copy(self)
        found.allocate()
        for name in self.names:
            getattr(found, name).copy_(getattr(self, name))
        return found
