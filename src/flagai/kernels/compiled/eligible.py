"""Where models learn by kernels of our own: what all of their operators ask first."""

from typing import Any, TypeGuard

import torch
from torch import nn

from flagai.kernels.hardware import has_triton_half
from flagai.model.layer.linear import Linear
from flagai.model.layer.operation import is_hooked


def half_type(hidden: torch.Tensor) -> torch.dtype | None:
    """The type of autocast, if gradients are wanted and the kernels run where these states are; else None."""
    kind = hidden.device.type
    if not torch.is_grad_enabled() or kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    half = torch.get_autocast_dtype(kind)
    return half if _kernels_run(hidden.device, half) else None


def _usable(device: torch.device, dtype: torch.dtype) -> bool:
    return has_triton_half(device, dtype)


# The compiler asks once.
_kernels_run: Any = torch.compiler.assume_constant_result(_usable)


def is_plain(layer: nn.Module) -> TypeGuard[Linear]:
    """Whether a layer is our own linear one with a bias, whose product and bias may be computed apart."""
    return (
        type(layer) is Linear and layer.bias is not None and type(layer.weight) is nn.Parameter and not is_hooked(layer)
    )
