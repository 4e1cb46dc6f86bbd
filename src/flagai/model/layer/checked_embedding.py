"""Lookup tables, and the check of their ids."""

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.layer.linear import linear


def check_ids(ids: torch.Tensor, rows: int, what: str) -> None:
    """Check ids of a table.

    Args:
        ids: the ids.
        rows: number of rows.
        what: what the ids are, for messages.

    Raises:
        InputError: an id is negative or not below the number of rows.
    """
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{what}s must be integers (int64), but have type {ids.dtype}.")
    if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        lowest, highest = (int(bound) for bound in ids.aminmax())
        if lowest < 0 or highest >= rows:
            wrong = lowest if lowest < 0 else highest
            raise InputError(
                f"{what} {wrong} lies outside 0..{rows - 1}, the rows of the model's table. "
                "Shorten the text, or compare the tokenizer with the model."
            )


class CheckedEmbedding(nn.Embedding):
    """A lookup table that names the offending id when one lies outside of it.

    On a GPU the check would wait for the device, so there it is left to the kernel.

    Args:
        rows: number of rows.
        width: size of a row.
        what: what the ids are, for messages.
    """

    def __init__(self, rows: int, width: int, what: str) -> None:
        super().__init__(rows, width)
        self.what = what

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., width].

        Raises:
            InputError: an id is negative or not below the number of rows.
        """
        check_ids(ids, self.num_embeddings, self.what)
        return self.look_up(ids)

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of ids that lie inside, [...] -> [..., width]."""
        return F.embedding(ids, self.weight)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compare states with every row: the head that shares the embeddings, [..., width] -> [..., rows]."""
        return linear(hidden, self.weight)
