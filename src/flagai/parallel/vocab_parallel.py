"""Cross entropy and argmax over a sharded vocabulary: no rank gathers the logits.

Source: Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism".
"""

from typing import TYPE_CHECKING

import torch
from torch import distributed

from flagai.device_support import widest_float
from flagai.errors import InputError
from flagai.parallel.collectives import all_reduce
from flagai.parallel.dtensor import local

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def sharded_cross_entropy(logits: "DTensor", targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The cross entropy of each target, in float32; 0 where a target is ``ignore_index``.

    Args:
        logits: [..., V], sharded along the vocabulary.
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
    total = all_reduce(scores.exp().sum(-1), group)
    chosen = all_reduce(scores.gather(1, here.masked_fill(absent, 0)[:, None])[:, 0].masked_fill(absent, 0), group)
    return (total.log() - chosen).masked_fill(~counted, 0)


def sharded_argmax(logits: "DTensor") -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens with the highest logits, and their log-probabilities in float32; the same on all ranks.

    Each rank sends three values per row.

    Args:
        logits: [..., V], sharded along the vocabulary.

    Shape:
        -> two of [...]
    """
    mesh, scores = logits.device_mesh, local(logits).float()
    highest, index = scores.max(-1)
    total = (scores - highest[..., None]).exp().sum(-1)
    first = mesh.get_local_rank() * -(-logits.shape[-1] // mesh.size())
    wide = widest_float(scores.device)  # float32 counts exactly to 16 million
    mine = torch.stack([highest.to(wide), total.to(wide), (index + first).to(wide)])
    parts = mine.new_empty(mesh.size(), *mine.shape)
    distributed.all_gather_into_tensor(parts.view(-1), mine.view(-1), group=mesh.get_group())
    highs, totals, indices = parts.unbind(1)
    top = highs.amax(0)
    tokens = indices.where(highs == top, torch.inf).amin(0)  # of equals, the first token
    scale = top + (totals * (highs - top).exp()).sum(0).log()
    return tokens.clamp(max=logits.shape[-1] - 1).long(), (top - scale).float()
