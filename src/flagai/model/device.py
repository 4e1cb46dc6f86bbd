"""A model's device, dtype and mesh: reading ``device``, ``dtype`` and ``mesh`` as users write them."""

import logging
from typing import TYPE_CHECKING

import torch

from flagai.device_support import has_bfloat16, has_float64
from flagai.errors import InputError

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.parallel.fsdp import FullyShard
    from flagai.parallel.sharding import Sharding

logger = logging.getLogger(__name__)
Device = str | int | torch.device
Dtype = str | torch.dtype
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def read_device(device: Device) -> torch.device:
    """The device that a user names.

    Raises:
        InputError: there is no such device here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise InputError(
            f"device={device!r:.40} cannot be used here. This machine has: {', '.join(all_devices())}."
        ) from error
    return found


def all_devices() -> list[str]:
    """The names of the devices that a model can be placed on, the CPU first."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = best_device().type
    return ["cpu", *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]


def read_dtype(dtype: Dtype | None) -> torch.dtype | None:
    """The dtype that a user names: a torch dtype or its name; None stays None.

    Raises:
        InputError: no model can have it.
    """
    if dtype is None:
        return None
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        near = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
        hint = f" Did you mean {near[dtype]!r}?" if isinstance(dtype, str) and dtype in near else ""
        raise InputError(f"dtype={dtype!r} is not a model's dtype.{hint} Choose one of {', '.join(DTYPES)}.")
    return found


def usable_dtype(
    device: torch.device, dtype: torch.dtype | None, stored: torch.dtype | None = None
) -> torch.dtype | None:
    """The dtype to load with, where a device lacks the one that is asked for or stored; else ``dtype`` as it is.

    Args:
        device: where the model is placed.
        dtype: what the user names; None for the checkpoint's.
        stored: the checkpoint's, once it is known.

    Raises:
        InputError: the device does not compute in what the user names.
    """
    wanted = dtype or stored
    if wanted == torch.bfloat16 and not has_bfloat16(device):
        instead = torch.float16
    elif wanted == torch.float64 and not has_float64(device):
        instead = torch.float32
    else:
        return dtype
    what = f"{device} does not compute in {_name(wanted)}"
    if dtype is not None:
        raise InputError(f"{what} itself. Choose dtype={_name(instead)!r}, dtype='float32', or another device.")
    wider = "; dtype='float32' keeps their range" if instead == torch.float16 else ""
    logger.warning("%s, which the weights have: they become %s%s.", what, _name(instead), wider)
    return instead


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def best_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        if found is not None:
            return found
    return torch.device("cpu")


def read_sharding(
    mesh: "DeviceMesh | str | None", fsdp: "FullyShard | bool", device: torch.device
) -> "Sharding | None":
    """How the model is sharded over processes; None if it is not. See :func:`flagai.parallel.sharding.read_sharding`.

    Raises:
        InputError: ``mesh`` and ``fsdp`` cannot be understood, or do not fit together.
    """
    if mesh is None:
        if fsdp:
            raise InputError("fsdp shards over the processes of a mesh. Pass mesh too, such as mesh='auto'.")
        return None
    from flagai.parallel import sharding as sharding

    return sharding.read_sharding(mesh, fsdp, device)
