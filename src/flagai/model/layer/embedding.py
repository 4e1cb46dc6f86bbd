"""Embeddings: tokens, positions, segments, and GLM's second positions."""

import torch
from torch import nn

from flagai.model.layer.checked_embedding import CheckedEmbedding


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
        total, *others = self.look_up(tokens, position_ids, block_position_ids, segment_ids)
        for other in others:
            total = total + other
        return self.dropout(total if self.norm is None else self.norm(total))

    def look_up(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None,
        block_position_ids: torch.Tensor | None,
        segment_ids: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """The embeddings of each table that is there and has ids, [B or 1, S, width] each."""
        tables = (
            (self.position, position_ids),
            (self.block_position, block_position_ids),
            (self.segment, segment_ids),
        )
        first = tokens if tokens.dim() == 3 else self.token(tokens)
        return [first, *(table(ids) for table, ids in tables if table is not None and ids is not None)]
