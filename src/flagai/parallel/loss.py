"""Cross entropy over a vocabulary that is cut over ranks: nobody ever has all logits."""

from typing import TYPE_CHECKING

import torch
from torch import distributed

from flagai.errors import InputError
from flagai.parallel.collectives import add_up

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def cross_entropies(logits: "DTensor", targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The cross entropy of each target, in float32; 0 where a target is ``ignore_index``.

    Args:
        logits: [..., V], cut along the vocabulary.
        targets: [...], on all ranks.
        ignore_index: marks positions without a target.

    Shape:
        -> [number of targets]

    Raises:
        InputError: a target is no token (checked on a CPU).
    """
    targets = targets.flatten()
    counted = targets != ignore_index
    if targets.device.type == "cpu" and bool((counted & ((targets < 0) | (targets >= logits.shape[-1]))).any()):
        raise InputError(f"A target lies outside 0..{logits.shape[-1] - 1} and is not {ignore_index}.")
    mesh = logits.device_mesh
    group = mesh.get_group()
    scores = logits.to_local().flatten(0, -2).float()
    size = scores.shape[-1]
    here = targets - mesh.get_local_rank() * -(-logits.shape[-1] // mesh.size())
    absent = (here < 0) | (here >= size)
    highest = scores.detach().max(dim=-1, keepdim=True).values
    distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=group)
    scores = scores - highest
    total = add_up(scores.exp().sum(-1), group)
    chosen = add_up(scores.gather(1, here.masked_fill(absent, 0)[:, None])[:, 0].masked_fill(absent, 0), group)
    return (total.log() - chosen).masked_fill(~counted, 0)
