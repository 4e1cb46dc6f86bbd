"""When compiled blocks train by kernels of our own: under autocast, with gradients, where Triton runs."""

from typing import Any

import torch

from flagai.kernels import hardware


def half_dtype(hidden: torch.Tensor) -> torch.dtype | None:
    """The dtype of autocast, if gradients are recorded and the kernels run where these states are; else None."""
    kind = hidden.device.type
    if not torch.is_grad_enabled() or kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    half = torch.get_autocast_dtype(kind)
    return half if _has_kernels(hidden.device, half) else None


def matmul_dtype(values: torch.Tensor) -> torch.dtype:
    """The dtype in which linear layers compute: that of autocast, or the values' own."""
    kind = values.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else values.dtype


def _has_triton_half(device: torch.device, dtype: torch.dtype) -> bool:
    return hardware.has_triton_half(device, dtype)


# The compiler asks once.
_has_kernels: Any = torch.compiler.assume_constant_result(_has_triton_half)
