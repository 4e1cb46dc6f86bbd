"""Distributed tensors: what this rank holds of them.

Everything here takes ordinary tensors too, which are their own whole, and loads nothing of torch.distributed for them.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn

from flagai.parallel import torch_private

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

# Whether calls of this thread leave logits sharded.
_SHARDED_LOGITS: ContextVar[bool] = ContextVar("sharded_logits", default=False)


def is_sharded(tensor: torch.Tensor | None) -> "TypeGuard[DTensor]":
    """Whether a tensor is distributed over ranks."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def unsharded_type(module: nn.Module) -> type[nn.Module]:
    """The class of a module, without the mixin of :func:`flagai.parallel.layers.convert_in_place`."""
    unsharded: type[nn.Module] = getattr(type(module), "unsharded_type", type(module))
    return unsharded


def shards_vocabulary(model: nn.Module) -> bool:
    """Whether a model has layers whose vocabulary is sharded (:class:`flagai.parallel.layers.VocabParallel`)."""
    return any(hasattr(module, "gather_logits") for module in model.modules())


@contextmanager
def sharded_logits(enabled: bool = True) -> Iterator[None]:
    """In the body, each rank keeps the logits that it computes; calls of other threads are not concerned.

    Args:
        enabled: False changes nothing.
    """
    before = _SHARDED_LOGITS.set(enabled or _SHARDED_LOGITS.get())
    try:
        yield
    finally:
        _SHARDED_LOGITS.reset(before)


def keeps_logits_sharded() -> bool:
    """Whether this thread is in the body of :func:`sharded_logits`."""
    return _SHARDED_LOGITS.get()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, with which it computes; gradients find their way back to the whole."""
    if not is_sharded(tensor):
        return tensor
    # A decoding step reads hundreds.
    return tensor.to_local() if torch.is_grad_enabled() else torch_private.local_tensor(tensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The values of all ranks; if the tensor is sharded, every rank of its mesh must ask together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_slices(tensor: torch.Tensor) -> tuple[slice, ...] | None:
    """This rank's shard as a slice for each dimension of the whole; None if it is all."""
    if not is_sharded(tensor):
        return None
    return torch_private.local_slices(tensor.shape, tensor.device_mesh, tensor.placements)


@dataclass(frozen=True)
class ShardGroup:
    """Ranks that share a tensor along one of its dimensions.

    Args:
        dimension: of the tensor.
        ranks: the process group.
        index: of this rank in the group.
        count: of ranks.
    """

    dimension: int
    ranks: "ProcessGroup"
    index: int
    count: int


def shard_groups(tensor: "DTensor") -> list[ShardGroup]:
    """The groups that share a tensor, but for dimensions that several dimensions of its mesh shard."""
    mesh = tensor.device_mesh
    return [
        ShardGroup(dimension, mesh.get_group(axis), index, count)
        for dimension, axis, index, count in _shard_axes(mesh, tensor.placements)
    ]


# Numbers only: a group that is kept would outlive torch.distributed, and stand in for the one of an equal mesh.
@functools.lru_cache(maxsize=256)
def _shard_axes(mesh: "DeviceMesh", placements: "tuple[Placement, ...]") -> tuple[tuple[int, int, int, int], ...]:
    # Not is_shard: FSDP around tensor parallelism has a placement of its own, which shards too.
    dimensions = [getattr(place, "dim", None) for place in placements]
    return tuple(
        (dimension, axis, mesh.get_local_rank(axis), mesh.size(axis))
        for axis, dimension in enumerate(dimensions)
        if dimension is not None and mesh.size(axis) > 1 and dimensions.count(dimension) == 1
    )


def from_shard(shard: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that is placed like another one, from this rank's shard; without communication.

    Args:
        shard: this rank's values.
        like: an ordinary tensor, or a sharded one whose values do not matter.
    """
    if not is_sharded(like):
        return shard
    return torch_private.distributed_tensor(shard, like.device_mesh, like.placements, like.shape, like.stride())


def as_parameter(values: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    """A parameter that is this new tensor.

    Args:
        values: an ordinary tensor, or a sharded one without other users.
        requires_grad: whether it is trained.
    """
    if not is_sharded(values):
        return nn.Parameter(values, requires_grad=requires_grad)
    return torch_private.as_parameter(values, requires_grad)


def scatter_from_first_rank(values: torch.Tensor, target: torch.Tensor) -> None:
    """Give every rank its shard of the first rank's values.

    Args:
        values: the whole; overwritten on all ranks but the first.
        target: the sharded tensor to fill.
    """
    from torch import distributed

    distributed.broadcast(values, src=0)
    local(target).copy_(values[local_slices(target) or ...])


def broadcast_from_first_rank(tensor: torch.Tensor) -> None:
    """Give every rank the values of the first one, unless the tensor is sharded: its values are scattered."""
    if not is_sharded(tensor):
        from torch import distributed

        distributed.broadcast(tensor.data, src=0)
