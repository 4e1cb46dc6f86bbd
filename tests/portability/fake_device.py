"""A device that computes with the CPU, but under its own name, and refuses types as Apple's and Ascend's GPUs do.

``install`` registers it with torch for good, under the name ``npu``: it belongs into a process of its own. Its tensors
are not the CPU's: NumPy cannot see them, and operations that mix them with the CPU's fail.
"""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KEPT: list[torch.library.Library] = []
_REFUSED: set[torch.dtype] = set()
# Operations that copy between devices, or take indices and numbers from the CPU.
_MIX = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::_foreach_copy_", "aten::index", "aten::index_put")


class DeviceTensor(torch.Tensor):
    """A tensor of the device."""

    raw: torch.Tensor  # the one that computes

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "DeviceTensor":
        if raw.dtype in _REFUSED:
            raise TypeError(f"this device has no {raw.dtype}")
        found = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=torch.device("npu", 0)
        )
        found.raw = raw
        return found  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        return self.raw.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


@torch.inference_mode(False)
@torch.no_grad()
def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; what is placed on the device, or computed with its tensors, is the device's."""
    flat, spec = tree_flatten((args, kwargs))
    mine = {id(each.raw): each for each in flat if isinstance(each, DeviceTensor)}
    name = func._schema.name
    foreign = [
        each for each in flat if isinstance(each, torch.Tensor) and not isinstance(each, DeviceTensor) and each.dim()
    ]
    if mine and foreign and not name.startswith(_MIX):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found npu:0 and cpu")
    places = [each for each in flat if isinstance(each, torch.device)]
    here = places[0].type == "npu" if places else bool(mine)
    if name == "aten::copy_":
        here = isinstance(args[0], DeviceTensor)
    values = [each.raw if isinstance(each, DeviceTensor) else each for each in flat]
    values = [torch.device("cpu") if isinstance(each, torch.device) and each.type == "npu" else each for each in values]
    args, kwargs = tree_unflatten(values, spec)
    kwargs.pop("pin_memory", None)
    results, form = tree_flatten(func(*args, **kwargs))

    def mark(found: Any) -> Any:
        if not isinstance(found, torch.Tensor):
            return found
        if id(found) in mine and here:
            return mine[id(found)]
        if places and any(found is each for each in values):  # the CPU has nothing to move
            found = found.clone()
        return DeviceTensor(found) if here else found

    return tree_unflatten([mark(each) for each in results], form)


def _copy_from(source: torch.Tensor, target: Any, non_blocking: bool = False) -> torch.Tensor:
    """What torch.tensor calls for another device."""
    target.raw.copy_(source.raw if isinstance(source, DeviceTensor) else source)
    return target  # type: ignore[no-any-return]


class _Module:
    """What torch asks of ``torch.npu``."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def is_bf16_supported(self) -> bool:
        return torch.bfloat16 not in _REFUSED

    def mem_get_info(self, _: Any) -> tuple[int, int]:
        return 1 << 30, 1 << 30

    def memory_reserved(self, _: Any) -> int:
        return 0

    memory_allocated = memory_reserved

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, _: int) -> None:
        pass


def install(*refused: torch.dtype) -> None:
    """Register the device ``npu``, which refuses some types."""
    _REFUSED.update(refused)
    _setup_privateuseone_for_python_backend("npu", backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    for name in ("empty.memory_format", "empty_strided"):
        function = getattr(torch.ops.aten, name.split(".")[0])
        overload = getattr(function, name.split(".")[1] if "." in name else "default")
        library.impl(name, lambda *args, _op=overload, **kwargs: compute(_op, args, kwargs), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    torch.accelerator.synchronize = lambda *_: None  # it has one queue, and waits for each operation
    KEPT.append(library)  # else its implementations go with it
