"""GELU of a product and its bias with gradients, by kernels of our own on a GPU, in half precision."""

from typing import Any

import torch
from torch.nn import functional as F

from flagai.kernels.compiled.eligible import half_type, is_plain
from flagai.kernels.compiled.linear_residual import linear_with_residual
from flagai.kernels.hardware import SM_COUNT
from flagai.model.layer.feed_forward import FeedForward, inner_features

# What a program holds at once, of GELU and of its gradient, whose programs keep sums of their own: so many.
_TILE = {"ROWS": 8, "BK": 256, "num_warps": 4}
_TILE_OF_GRADIENT = {"ROWS": 4, "BK": 1024, "num_warps": 8}
_PROGRAMS = 16 * SM_COUNT


def bias_gelu_features(layer: FeedForward, hidden: torch.Tensor) -> torch.Tensor:
    """As :func:`flagai.model.layer.feed_forward.inner_features`, for compiled blocks.

    The bias is left to the kernels, one of which adds up its gradient where it has the numbers at hand.

    Args:
        layer: the layer.
        hidden: [..., width]

    Shape:
        -> [..., inner]
    """
    if not _suits(layer, hidden):
        return inner_features(layer, hidden)
    return _bias_gelu(F.linear(hidden, layer.up.weight), layer.up.bias)


def features_with_residual(layer: FeedForward, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes on beside the layer, see :func:`linear_with_residual`, and its features before dropout."""
    if not _suits(layer, hidden):
        return hidden, layer.kernel(layer, hidden)
    hidden, product = linear_with_residual(hidden, layer.up.weight)
    return hidden, _bias_gelu(product, layer.up.bias)


def _suits(layer: FeedForward, hidden: torch.Tensor) -> bool:
    return layer.activation_name == "gelu" and half_type(hidden) is not None and is_plain(layer.up)


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
    written, rows, tile = torch.empty_like(product), product.numel() // width, _TILE_OF_GRADIENT
    parts = _parts(width, tile)
    programs = max(1, min(_PROGRAMS // parts, -(-rows // tile["ROWS"])))
    shares = bias.new_empty(programs, width, dtype=torch.float32)
    bias_gelu_backward_kernel[(programs * parts,)](
        gradient, product, bias, written, shares, rows, K=width, **tile
    )  # fmt: skip
    return written, shares.sum(0)


@_bias_gelu_backward.register_fake
def _(_: torch.Tensor, product: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    written = torch.empty_like(product, memory_format=torch.contiguous_format)
    return written, bias.new_empty(bias.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    product, bias = ctx.saved_tensors
    of_product, of_bias = _bias_gelu_backward(gradient, product, bias)
    return of_product, of_bias.to(bias.dtype)


_bias_gelu.register_autograd(_gradients, setup_context=_keep)
