"""Tables of embeddings whose numbers have 8 bits."""

from typing import Self

import torch
from torch.nn import functional as F

from flagai.model.layer.checked_embedding import CheckedEmbedding, check_ids
from flagai.model.layer.quantized_linear import Quantized


class QuantizedEmbedding(Quantized):
    """A table of embeddings in 8 bits, which is also the head that scores tokens.

    Args:
        rows: number of rows.
        width: size of a row.
        what: what the ids are, for messages.
        dtype: the type of the results' numbers.
    """

    def __init__(self, rows: int, width: int, what: str, dtype: torch.dtype) -> None:
        super().__init__(width, rows, 8, bias=False, dtype=dtype)
        self.num_embeddings, self.embedding_dim, self.what = rows, width, what

    @classmethod
    def of(cls, table: CheckedEmbedding, *, device: torch.device | None = None) -> Self:
        """The quantized form of a table; see :meth:`flagai.model.layer.quantized_linear.QuantizedLinear.of`."""
        with torch.device("meta"):
            made = cls(table.num_embeddings, table.embedding_dim, table.what, table.weight.dtype)
        return made.take(table.weight, None, device)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., width]; see :class:`flagai.model.layer.checked_embedding.CheckedEmbedding`."""
        check_ids(ids, self.num_embeddings, self.what)
        scale = F.embedding(ids, self.weight_scale[:, None])
        return (F.embedding(ids, self.weight).float() * scale).to(self.dtype)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compare states with every row, [..., width] -> [..., rows]."""
        return self.product(hidden)
