"""GlobalPointer: a score for every span and every entity class."""

import torch
from torch import nn

from flagai.model.layer.packed_row import PackedRow

# What masked spans are lowered by. Part of the published outputs; a score above 0 is an entity.
_MASKED = 1e12


class GlobalPointer(nn.Module):
    """Scores spans by the product of a query at their start and a key at their end, with rotary positions.

    Args:
        width: size of the hidden states.
        num_classes: number of entity classes, C.
        inner_dim: size of queries and keys, D.

    Source:
        Su et al. 2022, "Global Pointer: Novel Efficient Span-based Approach for Named Entity Recognition".
    """

    def __init__(self, width: int, num_classes: int, inner_dim: int) -> None:
        super().__init__()
        self.inner_dim = inner_dim
        self.dense = nn.Linear(width, num_classes * inner_dim * 2)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor, row: PackedRow | None = None) -> torch.Tensor:
        """Score all spans; those that end in padding or before their start are far below zero.

        Args:
            hidden: [B, S, width], or [1, T, width] of packed texts.
            valid: True at real tokens, [B, S]
            row: where packed texts lie.

        Shape:
            -> [B, C, S, S] (start, end), float32
        """
        projected = self.dense(hidden).float()
        projected = projected if row is None else row.pad(projected)
        projected = projected.unflatten(-1, (-1, 2, self.inner_dim))
        query, key = (self._rotate(part).transpose(1, 2) for part in projected.unbind(-2))
        scores = query @ key.transpose(-1, -2)
        scores = scores.masked_fill(~valid[:, None, None, :], -_MASKED)
        backwards = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(-1)
        return (scores - backwards * _MASKED) / self.inner_dim**0.5

    def _rotate(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rotate neighbouring pairs of features by their position, [B, S, C, D]."""
        device = vectors.device
        exponents = torch.arange(self.inner_dim // 2, device=device) * (-2 / self.inner_dim)
        angles = torch.arange(vectors.shape[1], device=device)[:, None] * 10000.0**exponents
        cos, sin = (part.repeat_interleave(2, -1)[:, None, :] for part in (angles.cos(), angles.sin()))
        crossed = torch.stack([-vectors[..., 1::2], vectors[..., ::2]], dim=-1).flatten(-2)
        return vectors * cos + crossed * sin
