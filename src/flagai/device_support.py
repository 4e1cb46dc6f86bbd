"""Which floating-point types a device computes in."""

from functools import cache

import torch

# Apple's GPUs refuse float64; Ascend's NPUs store it, but lack most operations.
_WITHOUT_FLOAT64 = ("mps", "npu")
_AMPERE = (8, 0)


@cache
def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64: those of Apple, Ascend and some of Intel do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type not in _WITHOUT_FLOAT64


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float64 if has_float64(device) else torch.float32


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself: NVIDIA's do since Ampere, Apple's since macOS 14."""
    if device.type in ("cpu", "meta"):
        return True
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    if device.type == "cuda" and torch.version.hip is None:  # torch counts emulation, which is slower than float32
        return torch.cuda.get_device_capability(device) >= _AMPERE
    asked = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return asked is None or bool(asked())
