"""Linear layers that an activation may follow."""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer.activations import activation
from flagai.model.layer.operation import operation


@operation
def linear(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> torch.Tensor:
    """A linear layer that an activation may follow.

    Args:
        hidden: [..., in]
        weight: [out, in]
        bias: [out]
        activation_name: see :func:`flagai.model.layer.activations.activation`.

    Shape:
        -> [..., out]
    """
    product = F.linear(hidden, weight, bias)
    return product if activation_name is None else activation(activation_name)(product)


class ActivatedLinear(nn.Module):
    """A linear layer whose ``forward`` takes the name of an activation."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of inputs and outputs."""
        return cast(torch.Tensor, self.weight).dtype


class Linear(nn.Linear, ActivatedLinear):
    """A linear layer that an activation may follow."""

    def reset_parameters(self) -> None:
        """Draw the first values, unless there is no memory for them: then even to prepare it is half of building."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, hidden: torch.Tensor, activation_name: str | None = None) -> torch.Tensor:
        """[..., in] -> [..., out], activated if an activation is named."""
        return linear(hidden, self.weight, self.bias, activation_name)


def linear_act(layer: nn.Module, hidden: torch.Tensor, activation_name: str) -> torch.Tensor:
    """A layer and its activation; the layer may be one that was put in place of ours and knows no activation."""
    if isinstance(layer, ActivatedLinear):
        return layer(hidden, activation_name)
    return activation(activation_name)(layer(hidden))


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """The type of the numbers that a layer takes and gives."""
    return layer.dtype if isinstance(layer, ActivatedLinear) else cast(torch.Tensor, layer.weight).dtype
