"""Linear layers, with the fastest product that a CPU offers."""

from typing import cast

import torch
from torch import nn

from flagai.model.layer.activation import activation
from flagai.model.layer.products import linear
from flagai.model.layer.quantized import QuantizedLinear


class Linear(nn.Linear):
    """A linear layer that an activation may follow; on a CPU by :mod:`flagai.model.layer.products`."""

    def reset_parameters(self) -> None:
        """Draw the first values, unless there is no memory for them: then even to prepare it is half of building."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, hidden: torch.Tensor, activation_name: str | None = None) -> torch.Tensor:
        """[..., in] -> [..., out], activated if an activation is named."""
        return linear(hidden, self.weight, self.bias, activation_name)


def activated(layer: nn.Module, hidden: torch.Tensor, activation_name: str) -> torch.Tensor:
    """A layer and its activation; the layer may be one that was put in place of ours and knows no activation."""
    if isinstance(layer, (Linear, QuantizedLinear)):
        return layer(hidden, activation_name)
    return activation(activation_name)(layer(hidden))


def type_of(layer: nn.Module) -> torch.dtype:
    """The type of the numbers that a layer takes and gives."""
    return layer.dtype if isinstance(layer, QuantizedLinear) else cast(torch.Tensor, layer.weight).dtype
