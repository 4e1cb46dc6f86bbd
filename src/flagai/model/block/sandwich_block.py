"""The block of GLM-4-0414."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.model.layer.attention import Attention
from flagai.model.layer.sdpa import AttentionMask

if TYPE_CHECKING:
    from flagai.model.layer.cache import LayerCache
    from flagai.model.layer.rotary import Rotation


class SandwichBlock(nn.Module):
    """Normalise before each sublayer, and its output once more before it is added.

    ::

        x ─┬─ norm1 ─ attention ─ norm1_out ─ + ─┬─ norm2 ─ feed_forward ─ norm2_out ─ + ─
           └────────────────────────────────  ┘  └──────────────────────────────────── ┘

    Args:
        norm1: before self attention.
        attention: self attention.
        norm1_out: after self attention.
        norm2: before the feed-forward layer.
        feed_forward: the feed-forward layer.
        norm2_out: after the feed-forward layer.

    Source:
        Ding et al. 2021, "CogView: Mastering Text-to-Image Generation via Transformers", section 2.4 (Sandwich-LN).
    """

    def __init__(
        self,
        norm1: nn.Module,
        attention: Attention,
        norm1_out: nn.Module,
        norm2: nn.Module,
        feed_forward: nn.Module,
        norm2_out: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm1_out = norm1_out
        self.norm2 = norm2
        self.feed_forward = feed_forward
        self.norm2_out = norm2_out

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        cache: "LayerCache | None" = None,
        rotation: "Rotation | None" = None,
    ) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        attended = self.attention(self.norm1(hidden), attn_mask, cache=cache, rotation=rotation)
        hidden = hidden + self.norm1_out(attended)
        added: torch.Tensor = hidden + self.norm2_out(self.feed_forward(self.norm2(hidden)))
        return added
