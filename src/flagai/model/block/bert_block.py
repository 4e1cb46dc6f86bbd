"""BERT's block."""

from flagai.model.block.post_norm_block import PostNormBlock
from flagai.model.layer.attention import Attention
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.norm import LayerNorm


class BertBlock(PostNormBlock):
    """Post-norm self attention and feed-forward, all with biases.

    Args:
        width: size of the hidden states.
        num_heads: number of attention heads.
        inner: size between the feed-forward layers.
        activation: the feed-forward layer's activation.
        eps: epsilon of the norms.
        dropout: probability of dropping a feature.
        attention_dropout: probability of dropping an attention weight.

    Source:
        Devlin et al. 2019, "BERT".
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner: int,
        *,
        activation: str = "gelu",
        eps: float = 1e-12,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            Attention(width, num_heads, dropout=attention_dropout),
            LayerNorm(width, eps=eps),
            FeedForward(width, inner, activation),
            LayerNorm(width, eps=eps),
            dropout=dropout,
        )
