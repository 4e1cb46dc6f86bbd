"""A product with gradients whose input goes on beside it, as in a residual block."""

from typing import Any

import torch
from torch.nn import functional as F

from flagai.kernels.compiled.eligible import half_type


def linear_with_residual(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and ``hidden @ weight.T``, for compiled blocks.

    Whoever goes on with what is given back instead of ``hidden`` leaves its gradient to the product's, which is added
    to it in place; else a kernel by itself would read both gradients and write their sum.

    Args:
        hidden: [..., in]
        weight: [out, in]

    Shape:
        -> [..., in] and [..., out]
    """
    half = half_type(hidden)
    if half is None or hidden.dtype != half:
        return hidden, F.linear(hidden, weight)
    both: tuple[torch.Tensor, torch.Tensor] = _Beside.apply(hidden, weight.to(half))  # type: ignore[no-untyped-call]
    return both


@torch.library.custom_op("flagai::add_product", mutates_args=("total",))
def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total[M, N] += left[M, K] @ right[K, N]; as an operator, else the compiler would copy total beforehand."""
    total.addmm_(left, right)


@_add_product.register_fake
def _(*_: torch.Tensor) -> None:
    return None


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight)
        return hidden.view_as(hidden), F.linear(hidden, weight)

    @staticmethod
    def backward(ctx: Any, beside: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            # A gradient may be somebody else's, too. The compiler sees whether it is and leaves the copy out.
            of_hidden = beside.clone(memory_format=torch.contiguous_format)
            _add_product(of_hidden.flatten(0, -2), gradient, weight)
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ hidden.flatten(0, -2)
        return of_hidden, of_weight
