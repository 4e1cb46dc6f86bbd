"""The feed-forward layer."""

import torch
from torch import nn

from flagai.model.layer.activations import activation
from flagai.model.layer.linear import Linear, compute_dtype, linear_act


class FeedForward(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        width: size of the input and the output.
        inner: size between the layers.
        activation_name: see :func:`flagai.model.layer.activations.activation`.
        bias: whether the layers have biases.
        dropout: probability of dropping an inner feature.
        down: the class of the second layer.
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
        self.up = Linear(width, inner, bias=bias)
        self.down = down(inner, width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        activation(activation_name)  # an unknown name is an error now, not with the first text
        self.activation_name = activation_name

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        inner = linear_act(self.up, hidden, self.activation_name)
        return self.down(self.dropout(inner.to(compute_dtype(self.down))))
