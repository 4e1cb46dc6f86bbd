"""T5's feed-forward layers: gated, and wide where float16 would overflow."""

from collections.abc import Callable
from typing import Self

import torch
from torch import nn

from flagai.model.layer.activations import activation
from flagai.model.layer.linear import Linear, compute_dtype, linear_act


class KeepFloat32Linear(Linear):
    """A linear layer that stays in float32 where the rest of the model becomes float16.

    T5 was trained in bfloat16; the outputs of its feed-forward layers overflow float16.
    """

    def reset_parameters(self) -> None:
        """Initialize the weight; a layer that is built in float16 becomes float32 now."""
        self._apply(lambda tensor: tensor)
        super().reset_parameters()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.dtype is torch.float16:
            super()._apply(torch.Tensor.float, recurse)  # type: ignore[no-untyped-call]
        return self


class GatedFeedForward(nn.Module):
    """A feed-forward layer whose inner features are multiplied by a second, activated projection.

    Args: those of :class:`~flagai.model.layer.feed_forward.FeedForward`; the activation is the gate's.

    Source:
        Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(
        self,
        width: int,
        inner: int,
        activation_name: str,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        down: type[Linear] = Linear,
    ) -> None:
        super().__init__()
        self.gate = Linear(width, inner, bias=bias)
        self.value = Linear(width, inner, bias=bias)
        self.down = down(inner, width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        activation(activation_name)  # an unknown name is an error now, not with the first text
        self.activation_name = activation_name

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]; the product is formed in the last layer's type, where it cannot overflow."""
        dtype = compute_dtype(self.down)
        inner = linear_act(self.gate, hidden, self.activation_name).to(dtype) * self.value(hidden).to(dtype)
        return self.down(self.dropout(inner))
