"""Linear layers, with the fastest product that a CPU offers."""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer.activation import activation
from flagai.model.layer.quantized import QuantizedLinear

# Activations that oneDNN applies while the product is still in the cache: its name and its algorithm for each.
_FUSED = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "swish": ("swish", ""),
    "tanh": ("tanh", ""),
}
# oneDNN prepares code for every new number of rows (2 ms): not worth it for single steps of a decoder, unless the
# matrix is as large as a vocabulary.
_FEWEST_ROWS, _FEWEST_OF_MANY, _MANY = 16, 6, 8192
# So few rows are cheaper as columns: MKL takes the matrix as it lies, where it would put it in another order first.
_FEW = range(2, 6)
# Multiplications below which nothing is gained.
_LEAST_WORK = 1 << 22
_HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.mkl.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """A linear layer that an activation may follow.

    In float32 on an x86 CPU, without gradients, oneDNN computes both at once: 15 to 25 % faster than torch's default
    (MKL and a second pass) and equal up to rounding.
    """

    def reset_parameters(self) -> None:
        """Draw the first values, unless there is no memory for them: then even to prepare it is half of building."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, hidden: torch.Tensor, activation_name: str | None = None) -> torch.Tensor:
        """[..., in] -> [..., out], activated if an activation is named."""
        return linear(hidden, self.weight, self.bias, activation_name)


def linear(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> torch.Tensor:
    """What a linear layer computes, by the fastest product.

    Args:
        hidden: [..., in]
        weight: [out, in]
        bias: [out]
        activation_name: applied to the result.

    Shape:
        -> [..., out]
    """
    if torch.compiler.is_compiling():  # it chooses for itself, and its sizes are no numbers
        product = F.linear(hidden, weight, bias)
        return product if activation_name is None else activation(activation_name)(product)
    count, size = weight.shape
    rows = hidden.numel() // size
    if rows in _FEW and size < 4 * count and _ordinary(hidden, weight):
        columns = hidden.reshape(rows, size).t()
        product = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
        product = product.t().contiguous().view(*hidden.shape[:-1], count)
    elif activation_name in _FUSED and _suits_onednn(rows, hidden, weight):
        kind, algorithm = _FUSED[activation_name]
        fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, kind, [], algorithm)
        return fused
    else:
        product = F.linear(hidden, weight, bias)
    return product if activation_name is None else activation(activation_name)(product)


def _suits_onednn(rows: int, hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and rows >= (_FEWEST_ROWS if len(weight) < _MANY else _FEWEST_OF_MANY)
        and rows * weight.numel() >= _LEAST_WORK
        and hidden.is_contiguous()
        and bool(torch.backends.mkldnn.enabled)
        and _ordinary(hidden, weight)
    )


def _ordinary(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether this is float32 inference on a CPU."""
    return (
        hidden.device.type == "cpu"
        and not torch.is_grad_enabled()
        and hidden.dtype is torch.float32
        # Parameters of other types (quantised, distributed) have products of their own.
        and type(weight) is nn.Parameter
        and weight.dtype is torch.float32
        # oneDNN is a hundred times slower with transposed or strided matrices.
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def activated(layer: nn.Module, hidden: torch.Tensor, activation_name: str) -> torch.Tensor:
    """A layer and its activation; the layer may be one that was put in place of ours and knows no activation."""
    if isinstance(layer, (Linear, QuantizedLinear)):
        return layer(hidden, activation_name)
    return activation(activation_name)(layer(hidden))


def type_of(layer: nn.Module) -> torch.dtype:
    """The type of the numbers that a layer takes and gives."""
    return layer.dtype if isinstance(layer, QuantizedLinear) else cast(torch.Tensor, layer.weight).dtype
