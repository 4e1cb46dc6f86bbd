"""The norm of a sum in one kernel, for the many rows of an encoder on a GPU in half precision."""

import torch
from torch import nn

from flagai.kernels.eligible import is_plain_norm
from flagai.kernels.hardware import has_triton_half, next_power_of_2
from flagai.model.block.post_norm_block import add_norm

# Fewer rows are not worth a kernel that has to be compiled: a decoding step has fewer.
_MIN_ROWS = 1024
_MAX_WIDTH = 8192
# Values that a program of the norm holds.
_VALUES = 4096


def _suits(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> bool:
    """Whether one kernel computes this sum and its norm."""
    width = hidden.shape[-1]
    return (
        not torch.is_grad_enabled()
        and has_triton_half(hidden.device, hidden.dtype)
        and hidden.numel() >= _MIN_ROWS * width
        and is_plain_norm(norm, _MAX_WIDTH)
        and norm.normalized_shape == (width,)
        and norm.weight.dtype is hidden.dtype is added.dtype
        and hidden.shape == added.shape
        and hidden.is_contiguous()
        and added.is_contiguous()
        and not torch.is_autocast_enabled(hidden.device.type)
    )


@add_norm.faster(_suits)
def add_norm_triton(norm: nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The norm of a sum in one pass over the memory, [..., K] -> [..., K]."""
    from flagai.kernels.triton.packed import add_norm_kernel

    size = hidden.shape[-1]
    count, out, block = hidden.numel() // size, torch.empty_like(hidden), next_power_of_2(size)
    rows = max(1, _VALUES // block)
    add_norm_kernel[(-(-count // rows),)](
        hidden, added, norm.weight, norm.bias, norm.eps, out, count, K=size, ROWS=rows, BK=block, num_warps=4
    )
    return out
