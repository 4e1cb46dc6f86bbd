"""Tensors with one entry for each text of a batch, whose texts come and go."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

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

    Args:
        sizes: the sizes.
        device: where they are.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes = sizes
        self.device = device
        self._fills: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors."""
        return tuple(self._fills)

    def add(self, name: str, *shape: int, dtype: torch.dtype = torch.long, fill: float = 0) -> torch.Tensor:
        """Add a tensor [R, *shape], which is the attribute of this name; rows without a text have ``fill``."""
        self._fills[name] = fill
        tensor = torch.full((self.sizes.rows, *shape), fill, dtype=dtype, device=self.device)
        setattr(self, name, tensor)
        return tensor

    def index(self, rows: Sequence[int]) -> torch.Tensor:
        """Numbers of rows on the device, without waiting for it, [n]."""
        return on_device(torch.tensor(rows, dtype=torch.long), self.device)

    def clear(self, rows: torch.Tensor) -> None:
        """Take texts out.

        Args:
            rows: [n]
        """
        for name, fill in self._fills.items():
            getattr(self, name).index_fill_(0, rows, fill)

    def put(self, rows: torch.Tensor, **values: Any) -> None:
        """Set the first entries of some rows.

        Args:
            rows: [n]
            **values: a tensor's name and its new values: a list of n sequences (the last dimension, which broadcasts
                over the ones before), or n numbers.
        """
        for name, value in values.items():
            tensor: torch.Tensor = getattr(self, name)
            new = on_device(_ragged(value, tensor.dtype), self.device)
            given = new.dim() > 1
            where = tensor[..., : new.shape[-1]] if given else tensor
            between = [1] * (where.dim() - new.dim())
            new = new.view(len(new), *between, *new.shape[1:])
            where.index_copy_(0, rows, new.expand(len(rows), *where.shape[1:]))

    def take(self, other: "RowTensors", rows: torch.Tensor) -> None:
        """Take over some rows of a batch whose tensors are no larger, as the first ones.

        Args:
            other: the batch.
            rows: [n]
        """
        for name in self._fills:
            old = getattr(other, name).index_select(0, rows)
            getattr(self, name)[tuple(map(slice, old.shape))] = old


def _ragged(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Numbers, or sequences of different lengths that are filled up with zeros."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    if value and isinstance(value[0], torch.Tensor):
        return torch.nn.utils.rnn.pad_sequence(value, batch_first=True).to(dtype)
    if value and isinstance(value[0], Sequence):
        longest = max(map(len, value))
        value = [[*row, *[0] * (longest - len(row))] for row in value]
    return torch.tensor(value, dtype=dtype)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a GPU it arrives when the work before it is done, without waiting."""
    if tensor.device.type != "cuda":
        return tensor.clone()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
