"""GLM's block."""

from flagai.model.block.gpt2_block import GPT2Block


class GLMBlock(GPT2Block):
    """GPT-2's block with GLM's proportions: the feed-forward layer is four times as wide, the GELU a tanh one.

    Args:
        width: size of the hidden states.
        num_heads: number of attention heads.
        eps: epsilon of the norms.
        dropout: probability of dropping a feature.
        attention_dropout: probability of dropping an attention weight.

    Source:
        Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling".
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(width, num_heads, 4 * width, eps=eps, dropout=dropout, attention_dropout=attention_dropout)
