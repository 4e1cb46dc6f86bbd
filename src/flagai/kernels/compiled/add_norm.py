"""The norm of a sum with dropout and gradients, by kernels of our own on a GPU, in half precision."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.compiled.eligible import half_type, is_plain
from flagai.kernels.hardware import SM_COUNT, next_power_of_2
from flagai.model.layer.operation import is_hooked

_WIDEST = 8192
# Numbers that a program holds at once, of the norm and of its gradient, whose programs keep sums of their own: so many.
_NUMBERS, _NUMBERS_OF_GRADIENT, _PROGRAMS = 4096, 2048, 4 * SM_COUNT
# The probability of dropout is a whole number of these: the kernels draw 16 bits for each number.
_PARTS = 1 << 16
_SEEDS = (1 << 31) - 1

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def plain(norm: nn.Module) -> bool:
    """Whether a module is a layer norm that :func:`dropout_add_norm` knows all of."""
    return (
        type(norm) is nn.LayerNorm
        and len(norm.normalized_shape) == 1
        and norm.normalized_shape[0] <= _WIDEST
        and type(norm.weight) is nn.Parameter
        and type(norm.bias) is nn.Parameter
        and not is_hooked(norm)
    )


def dropout_add_norm(
    norm: nn.LayerNorm, hidden: torch.Tensor, layer: nn.Module, found: torch.Tensor, dropout: nn.Dropout
) -> torch.Tensor:
    """The norm of ``hidden + dropout(layer(found))`` under autocast, for compiled blocks.

    torch's generator of the device gives one number, from which both passes draw the same dropout. A plain layer's bias
    is left to the kernels, one of which adds up its gradient where it has the numbers at hand.

    Args:
        norm: a :func:`plain` layer norm, with any hooks of those who call this.
        hidden: what is added to, [..., K].
        layer: a linear layer, or what was put in its place.
        found: what it reads, [..., in].
        dropout: applied to what it gives.

    Shape:
        -> [..., K]
    """
    dropped, half = round(dropout.p * _PARTS) if dropout.training else 0, half_type(hidden)
    if half is None or dropped == _PARTS:
        return norm(hidden + dropout(layer(found)))
    seed = torch.randint(_SEEDS, (1,), device=hidden.device) if dropped else None
    if is_plain(layer):
        added, bias = F.linear(found, layer.weight), layer.bias
    else:
        added, bias = layer(found), None
    return _dropout_add_norm(hidden.to(half), added.to(half), bias, norm.weight, norm.bias, seed, norm.eps, dropped)[0]


def _sizes(width: int, numbers: int) -> dict[str, int]:
    block = max(8, next_power_of_2(width))
    return {"K": width, "BK": block, "ROWS": max(1, numbers // block), "num_warps": max(4, block // 512)}


@torch.library.custom_op("flagai::add_norm", mutates_args=())
def _dropout_add_norm(
    hidden: torch.Tensor,
    added: torch.Tensor,
    bias: torch.Tensor | None,
    gain: torch.Tensor,
    shift: torch.Tensor,
    seed: torch.Tensor | None,
    eps: float,
    dropped: int,
) -> Found:
    """The norm of hidden + dropout(added + bias); for the gradients reciprocal deviations and space.

    The latter holds the norm before gain and shift where it could not be read back from that after them; else it is
    never touched.
    """
    from flagai.kernels.triton.packed_backward import dropout_add_norm_kernel

    hidden, added, sizes = hidden.contiguous(), added.contiguous(), _sizes(hidden.shape[-1], _NUMBERS)
    out, normal, rates = _shapes(hidden)
    dropout_add_norm_kernel[(-(-len(rates) // sizes["ROWS"]),)](
        hidden,
        added,
        bias,
        gain,
        shift,
        seed,
        eps,
        out,
        normal,
        rates,
        len(rates),
        BIAS=bias is not None,
        DROPPED=dropped,
        **sizes,
    )
    return out, normal, rates


@_dropout_add_norm.register_fake
def _shapes(hidden: torch.Tensor, *_: Any) -> Found:
    out, normal = (torch.empty_like(hidden, memory_format=torch.contiguous_format) for _ in range(2))
    return out, normal, hidden.new_empty(hidden.numel() // hidden.shape[-1], dtype=torch.float32)


@torch.library.custom_op("flagai::dropout_add_norm_backward", mutates_args=())
def _dropout_add_norm_backward(
    gradient: torch.Tensor,
    out: torch.Tensor,
    normal: torch.Tensor,
    rates: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    seed: torch.Tensor | None,
    dropped: int,
    biased: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the first addend, the second (empty without dropout: it is the same), and of gain, shift, bias."""
    from flagai.kernels.triton.packed_backward import dropout_add_norm_backward_kernel

    gradient, sizes = gradient.contiguous(), _sizes(out.shape[-1], _NUMBERS_OF_GRADIENT)
    programs = min(_PROGRAMS, -(-len(rates) // sizes["ROWS"]))
    first, second, of_parameters = _backward_shapes(gradient, out, normal, rates, dropped, biased)
    shares = rates.new_empty(programs, *of_parameters.shape)
    dropout_add_norm_backward_kernel[(programs,)](
        gradient,
        out,
        normal,
        rates,
        gain,
        shift,
        seed,
        first,
        second,
        shares,
        len(rates),
        BIAS=biased,
        DROPPED=dropped,
        **sizes,
    )
    return first, second, shares.sum(0)


@_dropout_add_norm_backward.register_fake
def _backward_shapes(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, out, _, rates, *_, dropped, biased = inputs
    second = torch.empty_like(out) if dropped else out.new_empty(0)
    return torch.empty_like(out), second, rates.new_empty(3 if biased else 2, out.shape[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
    _, _, bias, gain, shift, seed, _, ctx.dropped = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(*output, gain, shift, seed)
    ctx.mark_non_differentiable(*output[1:])
    # No zeros of the size of a layer's output for what nobody used.
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
    if gradient is None:
        return (None,) * 8
    *_, gain, shift, _ = ctx.saved_tensors
    biased = ctx.bias_dtype is not None
    first, second, of_parameters = _dropout_add_norm_backward(gradient, *ctx.saved_tensors, ctx.dropped, biased)
    second = second if ctx.dropped else first
    of_bias = of_parameters[2].to(ctx.bias_dtype) if biased else None
    of_gain, of_shift = of_parameters[0].to(gain.dtype), of_parameters[1].to(shift.dtype)
    return first, second, of_bias, of_gain, of_shift, None, None, None


_dropout_add_norm.register_autograd(_gradients, setup_context=_keep)
