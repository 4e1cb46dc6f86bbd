"""PyTorch's private API that distributed tensors need here; each use says what the public way costs.

A new version of PyTorch is added to :data:`CHECKED` when ``tests/parallel`` passes with it.
"""

import functools
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._dtensor_spec import DTensorSpec
    from torch.distributed.tensor.placement_types import Placement

# The versions with which all of this was tested.
CHECKED = ("2.11", "2.13")


def local_tensor(tensor: "DTensor") -> torch.Tensor:
    """The shard that ``to_local`` returns where no gradients are recorded, twenty times as fast."""
    return tensor._local_tensor


def as_parameter(values: "DTensor", requires_grad: bool) -> nn.Parameter:
    """A distributed tensor as a parameter, without the copy that ``nn.Parameter`` makes first (20 us)."""
    values.requires_grad_(requires_grad)._is_param = True
    return cast(nn.Parameter, values)


def distributed_tensor(
    shard: torch.Tensor,
    mesh: "DeviceMesh",
    placements: "tuple[Placement, ...]",
    shape: torch.Size,
    stride: tuple[int, ...],
) -> "DTensor":
    """A tensor of several ranks, from this rank's shard; nothing is communicated or checked.

    A model has hundreds of parameters of few kinds. The specification of a kind is made once, by ``from_local``
    (50 us), and each tensor of the kind by DTensor's ``__new__`` (2 us): its ``__init__`` does nothing, for as long.

    Args:
        shard: this rank's values, without a gradient.
        mesh: the ranks.
        placements: what each dimension of the mesh does with the tensor.
        shape: of the whole.
        stride: of the whole.
    """
    from torch.distributed.tensor import DTensor

    return DTensor.__new__(DTensor, shard, _spec(mesh, placements, shape, stride, shard.dtype), requires_grad=False)


@functools.lru_cache(maxsize=256)
def _spec(
    mesh: "DeviceMesh",
    placements: "tuple[Placement, ...]",
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
) -> "DTensorSpec":
    from torch.distributed.tensor import DTensor

    empty = torch.empty(0, dtype=dtype, device="meta")
    return DTensor.from_local(empty, mesh, placements, run_check=False, shape=shape, stride=stride)._spec


@functools.lru_cache(maxsize=256)  # a model has hundreds of parameters, but few shapes
def local_slices(shape: torch.Size, mesh: "DeviceMesh", placements: "tuple[Placement, ...]") -> tuple[slice, ...]:
    """This rank's shard of a tensor as a slice for each dimension; there is no public way."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    extents, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    return tuple(slice(begin, begin + extent) for begin, extent in zip(offset, extents, strict=True))


def symmetric_memory() -> ModuleType:
    """Torch's symmetric memory, which has no public module yet.

    Raises:
        ImportError: this version has none.
    """
    from torch.distributed import _symmetric_memory

    return _symmetric_memory
