"""GELU of a product and its bias with gradients, by kernels of our own on a GPU, in half precision."""

from typing import Any

import torch

from flagai.kernels.compiled.autocast import half_dtype
from flagai.kernels.compiled.linear_residual import linear_with_residual
from flagai.kernels.eligible import is_plain_linear
from flagai.kernels.hardware import SM_COUNT
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.linear import compute_dtype, linear_act

# The tile of a program of the forward and of the backward kernel; the latter also keeps sums.
_TILE = {"ROWS": 8, "BK": 256, "num_warps": 4}
_BACKWARD_TILE = {"ROWS": 4, "BK": 1024, "num_warps": 8}
MOST_PROGRAMS = 16 * SM_COUNT


def features_with_residual(layer: FeedForward, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual, see :func:`linear_with_residual`, and the input of the layer's last part, before dropout.

    The kernels add the bias, and sum up its gradient while they have the values at hand.

    Args:
        layer: the layer.
        hidden: [..., width]

    Shape:
        -> [..., width] and [..., inner]
    """
    if layer.activation_name != "gelu" or half_dtype(hidden) is None or not is_plain_linear(layer.up):
        inner = linear_act(layer.up, hidden, layer.activation_name)
        return hidden, inner.to(compute_dtype(layer.down))
    hidden, product = linear_with_residual(hidden, layer.up.weight)
    return hidden, _bias_gelu(product, layer.up.bias)


def _parts(width: int, tile: dict[str, int]) -> int:
    return -(-width // tile["BK"])


@torch.library.custom_op("flagai::bias_gelu", mutates_args=())
def _bias_gelu(product: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(product + bias), [..., K] -> [..., K]."""
    from flagai.kernels.triton.packed_backward import bias_gelu_kernel

    product, width = product.contiguous(), product.shape[-1]
    out, rows = torch.empty_like(product), product.numel() // width
    programs = -(-rows // _TILE["ROWS"]) * _parts(width, _TILE)
    bias_gelu_kernel[(programs,)](product, bias, out, rows, K=width, **_TILE)
    return out


@_bias_gelu.register_fake
def _(product: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(product, memory_format=torch.contiguous_format)


@torch.library.custom_op("flagai::bias_gelu_backward", mutates_args=())
def _bias_gelu_backward(
    gradient: torch.Tensor, product: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the product, [..., K], and of the bias, [K]."""
    from flagai.kernels.triton.packed_backward import bias_gelu_backward_kernel

    gradient, product, width = gradient.contiguous(), product.contiguous(), product.shape[-1]
    of_product, rows, tile = torch.empty_like(product), product.numel() // width, _BACKWARD_TILE
    parts = _parts(width, tile)
    programs = max(1, min(MOST_PROGRAMS // parts, -(-rows // tile["ROWS"])))
    shares = bias.new_empty(programs, width, dtype=torch.float32)
    bias_gelu_backward_kernel[(programs * parts,)](
        gradient, product, bias, of_product, shares, rows, K=width, **tile
    )  # fmt: skip
    return of_product, shares.sum(0)


@_bias_gelu_backward.register_fake
def _(_: torch.Tensor, product: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    of_product = torch.empty_like(product, memory_format=torch.contiguous_format)
    return of_product, bias.new_empty(bias.shape, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    product, bias = ctx.saved_tensors
    of_product, of_bias = _bias_gelu_backward(gradient, product, bias)
    return of_product, of_bias.to(bias.dtype)


_bias_gelu.register_autograd(_backward, setup_context=_save)
