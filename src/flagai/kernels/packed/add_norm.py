"""The norm of a sum in one kernel, for the many rows of an encoder on a GPU in half precision."""

import torch
from torch import nn

from flagai.kernels.hardware import has_triton_half, next_power_of_2
from flagai.model.layer.norm import add_norm
from flagai.model.layer.operation import is_hooked

# Fewer rows are not worth a kernel that has to be compiled: a decoding step has less.
_FEWEST_ROWS = 1024
_WIDEST = 8192
# Numbers that a program of the norm holds.
_NUMBERS = 4096


def _suits(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> bool:
    """Whether one kernel computes this sum and its norm."""
    return (
        type(norm) is nn.LayerNorm
        and not torch.is_grad_enabled()
        and has_triton_half(hidden.device, hidden.dtype)
        and hidden.numel() >= _FEWEST_ROWS * hidden.shape[-1]
        and hidden.shape[-1] <= _WIDEST
        and norm.normalized_shape == hidden.shape[-1:]
        and norm.bias is not None
        and type(norm.weight) is nn.Parameter
        and norm.weight.dtype is hidden.dtype is added.dtype
        and hidden.shape == added.shape
        and hidden.is_contiguous()
        and added.is_contiguous()
        and not torch.is_autocast_enabled(hidden.device.type)
        and not is_hooked(norm)
    )


@add_norm.faster(_suits)
def add_norm_triton(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The norm of a sum in one pass over the memory, [..., K] -> [..., K]."""
    from flagai.kernels.triton.packed import add_norm_kernel

    size = hidden.shape[-1]
    count, out, block = hidden.numel() // size, torch.empty_like(hidden), next_power_of_2(size)
    rows = max(1, _NUMBERS // block)
    add_norm_kernel[(-(-count // rows),)](
        hidden, added, norm.weight, norm.bias, norm.eps, out, count, K=size, ROWS=rows, BK=block, num_warps=4
    )
    return out
