"""Embeddings: tokens, positions, segments, and GLM's second positions."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.layer.linear import linear
from flagai.model.layer.operation import operation


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
        raise InputError(f"{what}s must be whole numbers (int64), but have type {ids.dtype}.")
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


class Finish(nn.Module):
    """What follows the tables; apart from them, so that it can be compiled without them."""

    def forward(self, parts: Sequence[torch.Tensor], norm: nn.Module | None, dropout: nn.Module) -> torch.Tensor:
        """The sum of what the tables gave, its norm, and dropout, [B or 1, S, width] each -> [B, S, width]."""
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return dropout(total if norm is None else norm(total))


class Embeddings(nn.Module):
    """The sum of a token's embeddings, optionally normalised.

    Args:
        vocab_size: number of tokens.
        width: size of the embeddings.
        positions: rows of the position table; 0 for none.
        block_positions: rows of GLM's second position table (position inside a span); 0 for none.
        segments: rows of the segment table; 0 for none.
        norm_eps: epsilon of a LayerNorm over the sum; None for no norm.
        dropout: probability of dropping a feature.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        positions: int = 0,
        block_positions: int = 0,
        segments: int = 0,
        norm_eps: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.token = CheckedEmbedding(vocab_size, width, "token id")
        self.position = CheckedEmbedding(positions, width, "position") if positions else None
        self.block_position = CheckedEmbedding(block_positions, width, "block position") if block_positions else None
        self.segment = CheckedEmbedding(segments, width, "segment id") if segments else None
        self.norm = nn.LayerNorm(width, eps=norm_eps) if norm_eps is not None else None
        self.dropout = nn.Dropout(dropout)
        self.finish = Finish()

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        position_ids: torch.Tensor | None = None,
        block_position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add up the embeddings of every position.

        Args:
            tokens: token ids, [B, S], or their embeddings, [B, S, width].
            position_ids: [B or 1, S]
            block_position_ids: [B or 1, S]
            segment_ids: [B or 1, S]

        Shape:
            -> [B, S, width]
        """
        return embed(self, tokens, position_ids, block_position_ids, segment_ids)


@operation
def embed(
    embeddings: Embeddings,
    tokens: torch.Tensor,
    position_ids: torch.Tensor | None,
    block_position_ids: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
) -> torch.Tensor:
    """Add up the embeddings of every position; see :meth:`Embeddings.forward`."""
    parts = [tokens if tokens.dim() == 3 else embeddings.token(tokens)]
    for table, ids in (
        (embeddings.position, position_ids),
        (embeddings.block_position, block_position_ids),
        (embeddings.segment, segment_ids),
    ):
        if table is not None and ids is not None:
            parts.append(table(ids))
    return embeddings.finish(parts, embeddings.norm, embeddings.dropout)
