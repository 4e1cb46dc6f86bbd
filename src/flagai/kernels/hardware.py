"""What kernels ask of a device, and how they are launched there."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)
# Streaming multiprocessors of the GPUs that the kernels are tuned for: H100 and H200 have 132.
SM_COUNT = 128


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length()


def has_triton_half(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton kernels run on a device with tensors of a dtype."""
    return dtype in HALF and has_triton(device)


@cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton kernels run on a device."""
    return is_ampere(device) and find_spec("triton") is not None


def is_ampere(device: torch.device) -> bool:
    """Whether a device is a GPU of compute capability 8.0 (Ampere) or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def pdl_options(device: torch.device, wanted: bool = True) -> dict[str, Any]:
    """Launch options of programmatic dependent launch: a kernel starts before its predecessor ends.

    Args:
        device: where the kernel runs.
        wanted: False launches it as ever.
    """
    if not wanted or device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return {"PDL": False}
    import triton.language as tl
    from triton.backends.nvidia.compiler import CUDAOptions

    known = hasattr(tl.extra.cuda, "gdc_wait") and "launch_pdl" in CUDAOptions.__dataclass_fields__
    return {"PDL": True, "launch_pdl": True} if known else {"PDL": False}
