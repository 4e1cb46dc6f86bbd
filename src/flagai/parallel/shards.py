"""Sharded tensors, seen from outside: which window of the whole this rank holds.

Everything here takes ordinary tensors too, which are their own whole, and loads nothing of torch.distributed for them.
"""

import functools
import sys
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement


def is_sharded(tensor: torch.Tensor | None) -> "TypeGuard[DTensor]":
    """Whether a tensor is distributed over ranks."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, with which it computes; gradients find their way back to the whole."""
    if not is_sharded(tensor):
        return tensor
    # Outside of training the attribute is what to_local returns, twenty times as fast: a step reads hundreds.
    return tensor.to_local() if torch.is_grad_enabled() else tensor._local_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The values of all ranks; if the tensor is sharded, every rank of its mesh must ask together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def window(tensor: torch.Tensor) -> tuple[slice, ...] | None:
    """Which part of the whole this rank holds, a slice for each dimension; None if it is all."""
    return _window(tensor.shape, tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None


@functools.lru_cache(maxsize=256)  # a model has hundreds of parameters, but few shapes
def _window(shape: torch.Size, mesh: "DeviceMesh", placements: "tuple[Placement, ...]") -> tuple[slice, ...]:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    extents, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    return tuple(slice(begin, begin + extent) for begin, extent in zip(offset, extents, strict=True))


def from_part(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that is placed like another one, from this rank's part; without communication.

    Args:
        part: this rank's values.
        like: an ordinary tensor, or a sharded one whose values do not matter.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def take_from_first_rank(values: torch.Tensor, target: torch.Tensor) -> None:
    """Give every rank its part of the values that the first rank has.

    Args:
        values: the whole; overwritten on all ranks but the first.
        target: the sharded tensor to fill.
    """
    from torch import distributed

    distributed.broadcast(values, src=0)
    local(target).copy_(values[window(target) or ...])


def same_everywhere(tensor: torch.Tensor) -> None:
    """Give every rank the values of the first one, unless the tensor is sharded, which gets its values otherwise."""
    if not is_sharded(tensor):
        from torch import distributed

        distributed.broadcast(tensor.data, src=0)
