"""The form of GLM's, GPT-2's, T5's and ChatGLM2's blocks."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.model.layer.attention import Attention, CrossAttention
from flagai.model.layer.sdpa import AttentionMask

if TYPE_CHECKING:
    from flagai.model.layer.cache import LayerCache
    from flagai.model.layer.rotary import Rotation


class PreNormBlock(nn.Module):
    """Normalise before each sublayer, add after it.

    ::

        x ─┬─ norm1 ─ attention ────────── + ─┬─ norm_cross ─ cross_attention ─ + ─┬─ norm2 ─ feed_forward ─ + ─
           └────────────────────────────── ┘  └──────────────────────────────── ┘  └──────────────────────── ┘

    Args:
        norm1: before self attention.
        attention: self attention.
        norm2: before the feed-forward layer.
        feed_forward: the feed-forward layer.
        dropout: probability of dropping a feature of a sublayer's output.
        norm_cross: before cross attention, in decoders with an encoder.
        cross_attention: attention to the encoder's output.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attention: Attention,
        norm2: nn.Module,
        feed_forward: nn.Module,
        *,
        dropout: float = 0.0,
        norm_cross: nn.Module | None = None,
        cross_attention: CrossAttention | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm_cross = norm_cross
        self.cross_attention = cross_attention
        self.norm2 = norm2
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        cache: "LayerCache | None" = None,
        memory: torch.Tensor | None = None,
        memory_attn_mask: AttentionMask | None = None,
        rotation: "Rotation | None" = None,
    ) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]; ``memory`` is the encoder's output, [B, K, width]."""
        attended = self.attention(self.norm1(hidden), attn_mask, cache=cache, rotation=rotation)
        hidden = hidden + self.dropout(attended)
        if self.cross_attention is not None and self.norm_cross is not None:
            mask = memory_attn_mask or AttentionMask()
            attended = self.cross_attention(self.norm_cross(hidden), mask, memory=memory, cache=cache)
            hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.feed_forward(self.norm2(hidden)))
