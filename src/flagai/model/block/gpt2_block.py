"""GPT-2's block."""

from flagai.model.block.pre_norm_block import PreNormBlock
from flagai.model.layer.attention import Attention
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.norm import LayerNorm


class GPT2Block(PreNormBlock):
    """Pre-norm self attention and feed-forward, all with biases; GLM's block has the same form.

    Args:
        width: size of the hidden states.
        num_heads: number of attention heads.
        inner: size between the feed-forward layers.
        activation: the feed-forward layer's activation.
        eps: epsilon of the norms.
        dropout: probability of dropping a feature.
        attention_dropout: probability of dropping an attention weight.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner: int,
        *,
        activation: str = "gelu_new",
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            LayerNorm(width, eps=eps),
            Attention(width, num_heads, dropout=attention_dropout),
            LayerNorm(width, eps=eps),
            FeedForward(width, inner, activation),
            dropout=dropout,
        )
