"""The norm of a sum with dropout and gradients, by kernels of our own on a GPU, in half precision."""

from typing import Any

import torch
from torch import nn

from flagai.model.layer.decoding import _MULTIPROCESSORS, _power, usable
from flagai.model.layer.hooks import is_hooked

_WIDEST = 8192
# Numbers that a program holds at once, and programs of the gradient, which keep sums of their own.
_NUMBERS, _PROGRAMS = 2048, 4 * _MULTIPROCESSORS
# The probability of dropout is a whole number of these: the kernels draw 16 bits for each number.
_PARTS = 1 << 16
_SEEDS = (1 << 31) - 1

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def plain(norm: nn.Module) -> bool:
    """Whether a module is a layer norm that :func:`learning_norm` knows all of."""
    return (
        type(norm) is nn.LayerNorm
        and len(norm.normalized_shape) == 1
        and norm.normalized_shape[0] <= _WIDEST
        and type(norm.weight) is nn.Parameter
        and type(norm.bias) is nn.Parameter
        and not is_hooked(norm)
    )


def learning_norm(norm: nn.LayerNorm, hidden: torch.Tensor, added: torch.Tensor, dropout: nn.Dropout) -> torch.Tensor:
    """The norm of ``hidden + dropout(added)`` under autocast, for compiled blocks, [..., K] -> [..., K].

    torch's generator of the device gives one number, from which both passes draw the same dropout.

    Args:
        norm: a :func:`plain` layer norm, with any hooks of those who call this.
        hidden: what is added to.
        added: what is added.
        dropout: applied to ``added``.
    """
    kind = hidden.device.type
    dropped = round(dropout.p * _PARTS) if dropout.training else 0
    wanted = torch.is_grad_enabled() and dropped < _PARTS and kind != "meta" and torch.is_autocast_enabled(kind)
    if not wanted or not _kernels_run(hidden.device, torch.get_autocast_dtype(kind)):
        return norm(hidden + dropout(added))
    half = torch.get_autocast_dtype(kind)
    seed = torch.randint(_SEEDS, (1,), device=hidden.device) if dropped else None
    return _added_norm(hidden.to(half), added.to(half), norm.weight, norm.bias, seed, norm.eps, dropped)[0]


def _usable(device: torch.device, dtype: torch.dtype) -> bool:
    return usable(device, dtype)


# The compiler asks once.
_kernels_run: Any = torch.compiler.assume_constant_result(_usable)


def _sizes(width: int) -> dict[str, int]:
    block = max(8, _power(width))
    return {"K": width, "BK": block, "ROWS": max(1, _NUMBERS // block), "num_warps": max(4, block // 512)}


@torch.library.custom_op("flagai::added_norm", mutates_args=())
def _added_norm(
    hidden: torch.Tensor,
    added: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    seed: torch.Tensor | None,
    eps: float,
    dropped: int,
) -> Found:
    """The norm of the sum; the sum, its means and the reciprocals of its deviations, for the gradients."""
    from flagai.model.layer.triton_training import added_norm_learning_kernel

    hidden, added, sizes = hidden.contiguous(), added.contiguous(), _sizes(hidden.shape[-1])
    out, total, means, rates = _shapes(hidden)
    added_norm_learning_kernel[(-(-len(means) // sizes["ROWS"]),)](
        hidden, added, gain, shift, seed, eps, out, total, means, rates, len(means), DROPPED=dropped, **sizes
    )
    return out, total, means, rates


@_added_norm.register_fake
def _shapes(hidden: torch.Tensor, *_: Any) -> Found:
    out, total = (torch.empty_like(hidden, memory_format=torch.contiguous_format) for _ in range(2))
    means, rates = (hidden.new_empty(hidden.numel() // hidden.shape[-1], dtype=torch.float32) for _ in range(2))
    return out, total, means, rates


@torch.library.custom_op("flagai::added_norm_backward", mutates_args=())
def _added_norm_backward(
    gradient: torch.Tensor,
    total: torch.Tensor,
    means: torch.Tensor,
    rates: torch.Tensor,
    gain: torch.Tensor,
    seed: torch.Tensor | None,
    dropped: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the first addend, the second (empty without dropout: it is the same), and of gain and shift."""
    from flagai.model.layer.triton_training import added_norm_gradient_kernel

    gradient, sizes = gradient.contiguous(), _sizes(total.shape[-1])
    programs = min(_PROGRAMS, -(-len(means) // sizes["ROWS"]))
    first, second, _ = _backward_shapes(gradient, total, means, rates, gain, seed, dropped)
    shares = means.new_empty(programs, 2, total.shape[-1])
    added_norm_gradient_kernel[(programs,)](
        gradient, total, means, rates, gain, seed, first, second, shares, len(means), DROPPED=dropped, **sizes
    )
    return first, second, shares.sum(0)


@_added_norm_backward.register_fake
def _backward_shapes(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, total, means, *_, dropped = inputs
    second = torch.empty_like(total) if dropped else total.new_empty(0)
    return torch.empty_like(total), second, means.new_empty(2, total.shape[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
    _, _, gain, shift, seed, _, ctx.dropped = inputs
    ctx.shift_dtype = shift.dtype
    ctx.save_for_backward(*output[1:], gain, seed)
    ctx.mark_non_differentiable(*output[1:])
    # No zeros of the size of a layer's output for what nobody used.
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    total, means, rates, gain, seed = ctx.saved_tensors
    first, second, (of_gain, of_shift) = _added_norm_backward(gradient, total, means, rates, gain, seed, ctx.dropped)
    second = second if ctx.dropped else first
    return first, second, of_gain.to(gain.dtype), of_shift.to(ctx.shift_dtype), None, None, None


_added_norm.register_autograd(_gradients, setup_context=_keep)
