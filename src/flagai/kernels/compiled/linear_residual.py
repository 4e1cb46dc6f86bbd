"""A linear layer whose input is also the residual: the gradients of both meet in one product."""

from typing import Any

import torch
from torch.nn import functional as F

from flagai.kernels.compiled.autocast import half_dtype


def linear_with_residual(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and ``hidden @ weight.T``, for compiled blocks.

    A block that takes its residual from here instead of ``hidden`` lets the product's gradient be added to the
    residual's in place; else a kernel of its own would read both gradients and write their sum.

    Args:
        hidden: [..., in]
        weight: [out, in]

    Shape:
        -> [..., in] and [..., out]
    """
    half = half_dtype(hidden)
    if half is None or hidden.dtype != half:
        return hidden, F.linear(hidden, weight)
    both: tuple[torch.Tensor, torch.Tensor] = _LinearWithResidual.apply(hidden, weight.to(half))  # type: ignore[no-untyped-call]
    return both


@torch.library.custom_op("flagai::add_product", mutates_args=("total",))
def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total[M, N] += left[M, K] @ right[K, N]; as an operator, else the compiler would copy total beforehand."""
    total.addmm_(left, right)


@_add_product.register_fake
def _(*_: torch.Tensor) -> None:
    return None


class _LinearWithResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight)
        return hidden.view_as(hidden), F.linear(hidden, weight)

    @staticmethod
    def backward(ctx: Any, residual: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            # Another node may read this gradient, too. Where none does, the compiler leaves the copy out.
            of_hidden = residual.clone(memory_format=torch.contiguous_format)
            _add_product(of_hidden.flatten(0, -2), gradient, weight)
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ hidden.flatten(0, -2)
        return of_hidden, of_weight
