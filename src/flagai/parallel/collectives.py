"""Collectives of a tensor-parallel group with their gradients, as in Megatron-LM.

Between them everything is ordinary tensors. They call the process group itself, which costs the least and can be
captured in CUDA graphs.

Source:
    Shoeybi et al. 2019, "Megatron-LM", section 3 (``copy_to_group`` and ``all_reduce`` are its f and g).
"""

from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup
from torch.nn import functional as F


def copy_to_group(tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Pass a replicated tensor to sharded layers: the identity, whose backward pass all-reduces the gradients."""
    return _apply(_CopyToGroup, tensor, group) if tensor.requires_grad and torch.is_grad_enabled() else tensor


def all_reduce(tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """The sum of the ranks' tensors, in place; each rank gets the gradient of the sum."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return _apply(_AllReduce, tensor, group)
    distributed.all_reduce(tensor, group=group)
    return tensor


def all_gather(tensor: torch.Tensor, size: int, group: ProcessGroup) -> torch.Tensor:
    """Join the ranks' shards of the last dimension.

    Args:
        tensor: this rank's shard; all have the same size but those of the last ranks, which may be smaller.
        size: of the whole dimension.
        group: the ranks.
    """
    return _apply(_AllGather, tensor, size, group)


def all_agree(vote: bool, group: ProcessGroup, device: torch.device) -> bool:
    """Whether all ranks vote True: an all-reduce with the minimum.

    Args:
        vote: of this rank.
        group: the ranks.
        device: where the group reduces tensors.
    """
    votes = torch.tensor(int(vote), device=device)
    distributed.all_reduce(votes, op=distributed.ReduceOp.MIN, group=group)
    return bool(votes)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    return function.apply(*arguments)


class _CopyToGroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.mark_dirty(tensor)
        distributed.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, size: int, group: ProcessGroup) -> torch.Tensor:
        count = distributed.get_world_size(group)
        each = -(-size // count)
        ctx.begin, ctx.width = distributed.get_rank(group) * each, tensor.shape[-1]
        part = F.pad(tensor, (0, each - ctx.width)).contiguous()
        parts = [torch.empty_like(part) for _ in range(count)]
        distributed.all_gather(parts, part, group=group)
        return torch.cat(parts, dim=-1)[..., :size]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].narrow(-1, ctx.begin, ctx.width).contiguous(), None, None
