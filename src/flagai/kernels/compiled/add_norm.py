"""The norm of a sum with dropout and gradients, by kernels of our own on a GPU, in half precision."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.compiled.autocast import half_dtype
from flagai.kernels.eligible import is_plain_linear
from flagai.kernels.hardware import SM_COUNT, next_power_of_2

MAX_WIDTH = 8192
# Values that a program of the forward and of the backward kernel holds at once; the latter also keeps sums.
_VALUES, _BACKWARD_VALUES, MOST_PROGRAMS = 4096, 2048, 4 * SM_COUNT
# The kernels draw 16 bits for each value: the probability of dropout is an integer over this.
_DROPOUT_STEPS = 1 << 16
_SEEDS = (1 << 31) - 1

NormAndState = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def dropout_add_norm(
    norm: nn.LayerNorm, hidden: torch.Tensor, layer: nn.Module, inputs: torch.Tensor, dropout: nn.Dropout
) -> torch.Tensor:
    """``norm(hidden + dropout(layer(inputs)))`` under autocast, for compiled blocks.

    torch's generator of the device gives one number, from which both passes draw the same dropout. The kernels add a
    plain layer's bias, and sum up its gradient while they have the values at hand.

    Args:
        norm: a plain layer norm of at most ``MAX_WIDTH`` features.
        hidden: the residual, [..., K].
        layer: a linear layer, or a module in its place.
        inputs: the layer's input, [..., in].
        dropout: applied to the layer's output.

    Shape:
        -> [..., K]
    """
    dropped, half = round(dropout.p * _DROPOUT_STEPS) if dropout.training else 0, half_dtype(hidden)
    if half is None or dropped == _DROPOUT_STEPS:
        return norm(hidden + dropout(layer(inputs)))
    seed = torch.randint(_SEEDS, (1,), device=hidden.device) if dropped else None
    if is_plain_linear(layer):
        added, bias = F.linear(inputs, layer.weight), layer.bias
    else:
        added, bias = layer(inputs), None
    return _dropout_add_norm(hidden.to(half), added.to(half), bias, norm.weight, norm.bias, seed, norm.eps, dropped)[0]


def _sizes(width: int, values: int) -> dict[str, int]:
    block = max(8, next_power_of_2(width))
    return {"K": width, "BK": block, "ROWS": max(1, values // block), "num_warps": max(4, block // 512)}


@torch.library.custom_op("flagai::dropout_add_norm", mutates_args=())
def _dropout_add_norm(
    hidden: torch.Tensor,
    added: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    norm_bias: torch.Tensor,
    seed: torch.Tensor | None,
    eps: float,
    dropped: int,
) -> NormAndState:
    """The norm of hidden + dropout(added + bias); for the gradients the normalized values and reciprocal deviations.

    The normalized values are written only where they cannot be computed from the norm; else that memory is not touched.
    """
    from flagai.kernels.triton.packed_backward import dropout_add_norm_kernel

    hidden, added, sizes = hidden.contiguous(), added.contiguous(), _sizes(hidden.shape[-1], _VALUES)
    out, normalized, rstd = _shapes(hidden)
    dropout_add_norm_kernel[(-(-len(rstd) // sizes["ROWS"]),)](
        hidden,
        added,
        bias,
        weight,
        norm_bias,
        seed,
        eps,
        out,
        normalized,
        rstd,
        len(rstd),
        BIAS=bias is not None,
        DROPPED=dropped,
        **sizes,
    )
    return out, normalized, rstd


@_dropout_add_norm.register_fake
def _shapes(hidden: torch.Tensor, *_: Any) -> NormAndState:
    out, normalized = (torch.empty_like(hidden, memory_format=torch.contiguous_format) for _ in range(2))
    return out, normalized, hidden.new_empty(hidden.numel() // hidden.shape[-1], dtype=torch.float32)


@torch.library.custom_op("flagai::dropout_add_norm_backward", mutates_args=())
def _dropout_add_norm_backward(
    gradient: torch.Tensor,
    out: torch.Tensor,
    normalized: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    norm_bias: torch.Tensor,
    seed: torch.Tensor | None,
    dropped: int,
    biased: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of hidden, of added (empty without dropout: the same), and of weight, norm_bias and bias in one."""
    from flagai.kernels.triton.packed_backward import dropout_add_norm_backward_kernel

    gradient, sizes = gradient.contiguous(), _sizes(out.shape[-1], _BACKWARD_VALUES)
    programs = min(MOST_PROGRAMS, -(-len(rstd) // sizes["ROWS"]))
    of_hidden, of_added, parameters = _backward_shapes(gradient, out, normalized, rstd, dropped, biased)
    shares = rstd.new_empty(programs, *parameters.shape)
    dropout_add_norm_backward_kernel[(programs,)](
        gradient,
        out,
        normalized,
        rstd,
        weight,
        norm_bias,
        seed,
        of_hidden,
        of_added,
        shares,
        len(rstd),
        BIAS=biased,
        DROPPED=dropped,
        **sizes,
    )
    return of_hidden, of_added, shares.sum(0)


@_dropout_add_norm_backward.register_fake
def _backward_shapes(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, out, _, rstd, *_, dropped, biased = inputs
    of_added = torch.empty_like(out) if dropped else out.new_empty(0)
    return torch.empty_like(out), of_added, rstd.new_empty(3 if biased else 2, out.shape[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: NormAndState) -> None:
    _, _, bias, weight, norm_bias, seed, _, ctx.dropped = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(*output, weight, norm_bias, seed)
    ctx.mark_non_differentiable(*output[1:])
    # No zeros of the size of a layer's output for an output without a gradient.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
    if gradient is None:
        return (None,) * 8
    *_, weight, norm_bias, _ = ctx.saved_tensors
    biased = ctx.bias_dtype is not None
    of_hidden, of_added, parameters = _dropout_add_norm_backward(gradient, *ctx.saved_tensors, ctx.dropped, biased)
    of_added = of_added if ctx.dropped else of_hidden
    of_bias = parameters[2].to(ctx.bias_dtype) if biased else None
    of_weight, of_norm_bias = parameters[0].to(weight.dtype), parameters[1].to(norm_bias.dtype)
    return of_hidden, of_added, of_bias, of_weight, of_norm_bias, None, None, None


_dropout_add_norm.register_autograd(_backward, setup_context=_save)
