"""The block of ChatGLM-6B and GLM-130B."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.model.layer.attention import Attention
from flagai.model.layer.sdpa import AttentionMask

if TYPE_CHECKING:
    from flagai.model.layer.cache import LayerCache
    from flagai.model.layer.rotary import Rotation


class DeepNormBlock(nn.Module):
    """Normalise before each sublayer, and add its output to a multiple of the normalised input.

    ::

        x ─ norm1 ─┬─ attention ─ + ─ norm2 ─┬─ feed_forward ─ + ─
                   └─── · scale ─ ┘          └────── · scale ─ ┘

    Args:
        norm1: before self attention.
        attention: self attention.
        norm2: before the feed-forward layer.
        feed_forward: the feed-forward layer.
        scale: of the residual; ``(2 * layers) ** 0.5``.

    Source:
        Wang et al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers", as Zeng et al. 2022 use it (GLM-130B).
    """

    def __init__(
        self, norm1: nn.Module, attention: Attention, norm2: nn.Module, feed_forward: nn.Module, *, scale: float
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm2 = norm2
        self.feed_forward = feed_forward
        self.scale = scale

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        cache: "LayerCache | None" = None,
        rotation: "Rotation | None" = None,
    ) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        normed = self.norm1(hidden)
        attended = self.attention(normed, attn_mask, cache=cache, rotation=rotation)
        normed = self.norm2(self.scale * normed + attended)
        added: torch.Tensor = self.scale * normed + self.feed_forward(normed)
        return added
