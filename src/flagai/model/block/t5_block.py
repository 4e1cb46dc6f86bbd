"""T5's block, for the encoder and for the decoder."""

from functools import partial

from flagai.model.block.pre_norm_block import PreNormBlock
from flagai.model.layer.attention import Attention, CrossAttention
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.gated_feed_forward import GatedFeedForward, KeepFloat32Linear
from flagai.model.layer.norm import RMSNorm


class T5Block(PreNormBlock):
    """Pre-norm block with RMS norms, no biases and unscaled attention scores.

    Args:
        width: size of the hidden states.
        num_heads: number of attention heads.
        head_dim: size of a head; the heads together may be wider or narrower than ``width``.
        inner: size between the feed-forward layers.
        activation: the feed-forward layer's activation.
        gated: whether the feed-forward layer is gated (v1.1, mT5).
        decoder: whether the block attends to an encoder's output.
        eps: epsilon of the norms.
        dropout: probability of dropping a feature or an attention weight.

    Source:
        Raffel et al. 2020, "Exploring the Limits of Transfer Learning"; v1.1: Shazeer 2020.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_dim: int,
        inner: int,
        *,
        activation: str = "relu",
        gated: bool = False,
        decoder: bool = False,
        eps: float = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        attention = partial(Attention, head_dim=head_dim, bias=False, scale=1.0, dropout=dropout)
        cross_attention = partial(CrossAttention, head_dim=head_dim, bias=False, scale=1.0, dropout=dropout)
        feed_forward = GatedFeedForward if gated else FeedForward
        super().__init__(
            RMSNorm(width, eps),
            attention(width, num_heads),
            RMSNorm(width, eps),
            feed_forward(width, inner, activation, bias=False, dropout=dropout, down=KeepFloat32Linear),
            dropout=dropout,
            norm_cross=RMSNorm(width, eps) if decoder else None,
            cross_attention=cross_attention(width, num_heads) if decoder else None,
        )
