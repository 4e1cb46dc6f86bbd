"""A model's device, dtype and mesh: reading ``device``, ``dtype`` and ``mesh`` as users write them."""

from typing import TYPE_CHECKING

import torch

from flagai.errors import InputError

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.parallel.fsdp import FullyShard
    from flagai.parallel.sharding import Sharding

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
            f"device={device!r:.40} cannot be used here. This machine has: {', '.join(_devices())}."
        ) from error
    return found


def _devices() -> list[str]:
    """The names of the devices that a model can be placed on."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = best_device().type
    return ["cpu", kind, *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]


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
        InputError: ``mesh`` and ``fsdp`` cannot be understood, or do not go together.
    """
    if mesh is None:
        if fsdp:
            raise InputError("fsdp shards over the processes of a mesh. Pass mesh too, such as mesh='auto'.")
        return None
    from flagai.parallel import sharding as sharding

    return sharding.read_sharding(mesh, fsdp, device)
