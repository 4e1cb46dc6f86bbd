"""Where the ranks of a tensor-parallel group meet: three functions with their gradients.

Between these edges everything is ordinary tensors. They call the process group itself, which costs the least and can be
recorded in CUDA graphs.

Source:
    Shoeybi et al. 2019, "Megatron-LM", section 3 (``enter`` and ``add_up`` are its f and g).
"""

from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup
from torch.nn import functional as F


def enter(tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Hand a tensor that all ranks have to layers that are cut: the same values, and gradients are added up."""
    return _run(_Enter, tensor, group) if tensor.requires_grad and torch.is_grad_enabled() else tensor


def add_up(tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Add up what each rank computed, in place; every rank gets the sum, and the gradient of the sum."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return _run(_AddUp, tensor, group)
    distributed.all_reduce(tensor, group=group)
    return tensor


def put_together(tensor: torch.Tensor, size: int, group: ProcessGroup) -> torch.Tensor:
    """Join the ranks' parts of the last dimension.

    Args:
        tensor: this rank's part; all have the same size but the last ranks', which may be smaller.
        size: of the whole dimension.
        group: the ranks.
    """
    return _run(_PutTogether, tensor, size, group)


def _run(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    return function.apply(*arguments)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.mark_dirty(tensor)
        distributed.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _PutTogether(torch.autograd.Function):
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
