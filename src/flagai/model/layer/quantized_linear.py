"""Linear layers whose weights have 8 or 4 bits; everything else computes as ever."""

from collections.abc import Callable
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F

from flagai.checkpoint.quantization import dequantize, group_size, quantize_int4, quantize_int8
from flagai.errors import InputError
from flagai.model.layer.activations import activation
from flagai.model.layer.linear import ActivatedLinear
from flagai.model.layer.operation import operation

# Names of ways that users give, and the bits of a weight.
BITS = {"int8": 8, "int4": 4}


class Quantized(ActivatedLinear):
    """A matrix in 8 or 4 bits that tokens are multiplied by.

    Steps with few tokens on a GPU read the quantized weights; for many tokens the matrix is dequantized. It cannot be
    trained.

    Args:
        inputs: number of columns.
        outputs: number of rows.
        bits: 8 (int8, a scale for each row) or 4 (words of eight, a scale and a minimum for each group).
        bias: whether there is a bias.
        dtype: the type of the results' numbers.
        wide: keep float32 where the rest of the model becomes float16.

    Source:
        The formats: :mod:`flagai.checkpoint.quantization`.
    """

    def __init__(
        self, inputs: int, outputs: int, bits: int, *, bias: bool, dtype: torch.dtype, wide: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits, self.wide = inputs, outputs, bits, wide
        self.group = inputs if bits == 8 else (group_size(inputs) or 0)
        if not self.group:
            raise InputError(f"A matrix with {inputs} columns cannot have 4 bits: 32 does not divide it.")
        if bits == 8:
            weight, scale = torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(outputs)
        else:
            weight = torch.empty(outputs, inputs // 8, dtype=torch.int32)
            scale = torch.empty(outputs, inputs // self.group, dtype=torch.int32)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None
        # Holds nothing but the type, and follows the model's.
        self._like: torch.Tensor
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)
        self.training = False

    @torch.no_grad()
    def take(self, matrix: torch.Tensor, bias: torch.Tensor | None, device: torch.device | None) -> Self:
        """Become the quantized form of a matrix.

        Args:
            matrix: [outputs, inputs], on any device.
            bias: [outputs].
            device: where this is placed and computed; default where the matrix is.
        """
        device = matrix.device if device is None else device
        if device.type != "meta":
            numbers, scale = (quantize_int8 if self.bits == 8 else quantize_int4)(matrix.detach().to(device))
            self.weight = nn.Parameter(numbers, requires_grad=False)
            self.weight_scale = nn.Parameter(scale, requires_grad=False)
            self._like = torch.empty(0, dtype=matrix.dtype, device=device)
            if bias is not None:
                self.bias = nn.Parameter(bias.detach().to(device), requires_grad=False)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The type of the results' numbers."""
        return self._like.dtype

    def train(self, mode: bool = True) -> Self:
        """See :class:`torch.nn.Module`.

        Raises:
            InputError: it is to be trained.
        """
        if mode:
            raise InputError("Quantized weights cannot be trained. Load the model without quantize=.")
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move, and change the type of the results; the numbers and their scales keep theirs."""
        scale = self.weight_scale.dtype
        if self.bits == 8:  # as integers, so that no type is given up on the way
            self.weight_scale = nn.Parameter(self.weight_scale.view(torch.int32), requires_grad=False)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight_scale = nn.Parameter(self.weight_scale.view(scale), requires_grad=False)
        if self.wide and self.dtype is torch.float16:
            super()._apply(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, recurse)  # type: ignore[no-untyped-call]
        return self

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix, [out, in]."""
        return dequantize(self.weight, self.weight_scale).to(dtype)

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], with the bias."""
        return quantized_linear(self, hidden)

    def extra_repr(self) -> str:
        """See :class:`torch.nn.Module`."""
        group = f", group={self.group}" if self.bits == 4 else ""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}{group}, bias={self.bias is not None}"


@operation
def quantized_linear(layer: Quantized, hidden: torch.Tensor) -> torch.Tensor:
    """Multiply tokens by a quantized matrix and add its bias, [..., in] -> [..., out]."""
    return F.linear(hidden, layer.dequantized(hidden.dtype), layer.bias)


class QuantizedLinear(Quantized):
    """A linear layer whose matrix is kept in 8 or 4 bits; see :class:`Quantized`."""

    @classmethod
    def of(cls, layer: nn.Linear, bits: int, *, wide: bool = False, device: torch.device | None = None) -> Self:
        """The quantized form of a layer.

        Args:
            layer: the layer; it stays as it is.
            bits: 8 or 4.
            wide: keep float32 where the rest of the model becomes float16.
            device: where the new one is placed and computed; default where the layer is.
        """
        bias = layer.bias
        with torch.device("meta"):
            made = cls(
                layer.in_features, layer.out_features, bits, bias=bias is not None, dtype=layer.weight.dtype, wide=wide
            )
        return made.take(layer.weight, bias, device)

    def forward(self, hidden: torch.Tensor, activation_name: str | None = None) -> torch.Tensor:
        """[..., in] -> [..., out], activated if an activation is named."""
        product = self.product(hidden)
        return product if activation_name is None else activation(activation_name)(product)
