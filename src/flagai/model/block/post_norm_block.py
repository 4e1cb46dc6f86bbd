"""The form of BERT's blocks, and of GPT-2's with ``post_norm``."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.model.layer.attention import Attention
from flagai.model.layer.operation import operation
from flagai.model.layer.sdpa import AttentionMask

if TYPE_CHECKING:
    from flagai.model.layer.cache import LayerCache


class PostNormBlock(nn.Module):
    """Add after each sublayer, then normalise.

    ::

        x ─┬─ attention ─ + ─ norm1 ─┬─ feed_forward ─ + ─ norm2 ─
           └───────────── ┘          └──────────────── ┘

    Args:
        attention: self attention.
        norm1: after self attention.
        feed_forward: the feed-forward layer.
        norm2: after the feed-forward layer.
        dropout: probability of dropping a feature of a sublayer's output.
    """

    def __init__(
        self,
        attention: Attention,
        norm1: nn.Module,
        feed_forward: nn.Module,
        norm2: nn.Module,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = norm1
        self.feed_forward = feed_forward
        self.norm2 = norm2
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: "LayerCache | None" = None
    ) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        attended = self.attention(hidden, attn_mask, cache=cache)
        hidden = add_norm(self.norm1, hidden, self.dropout(attended))
        return add_norm(self.norm2, hidden, self.dropout(self.feed_forward(hidden)))


@operation
def add_norm(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The norm of a sum, two of [..., width] -> [..., width]."""
    return norm(hidden + added)
