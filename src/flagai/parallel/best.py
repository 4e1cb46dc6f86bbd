"""The best token of a vocabulary that is cut over ranks: nobody ever has all logits."""

from typing import TYPE_CHECKING

import torch
from torch import distributed

from flagai.parallel.dtensor import local

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def best_tokens(logits: "DTensor") -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens with the highest logits, and their log-probabilities in float32; the same on all ranks.

    Each rank hands over three numbers for every row.

    Args:
        logits: [..., V], cut along the vocabulary.

    Shape:
        -> two of [...]
    """
    mesh, scores = logits.device_mesh, local(logits).float()
    highest, place = scores.max(-1)
    total = (scores - highest[..., None]).exp().sum(-1)
    first = mesh.get_local_rank() * -(-logits.shape[-1] // mesh.size())
    mine = torch.stack([highest.double(), total.double(), (place + first).double()])
    parts = mine.new_empty(mesh.size(), *mine.shape)
    distributed.all_gather_into_tensor(parts.view(-1), mine.view(-1), group=mesh.get_group())
    highs, totals, places = parts.unbind(1)
    top = highs.amax(0)
    tokens = places.where(highs == top, torch.inf).amin(0)  # of equals, the first token
    scale = top + (totals * (highs - top).exp()).sum(0).log()
    return tokens.clamp(max=logits.shape[-1] - 1).long(), (top - scale).float()
