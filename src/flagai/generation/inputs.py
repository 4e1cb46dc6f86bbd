"""What a static step reads: tensors that stay where they are."""

from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Inputs:
    """The newest tokens, and where they stand.

    Args:
        ids: [B, W]
        position: positions in the text, [B, W].
        block: GLM's positions inside of a span, [B, W].
        seen: which slots of the cache each token sees, [B, W, capacity].
    """

    ids: torch.Tensor
    position: torch.Tensor
    block: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def empty(cls, batch: int, lanes: int, capacity: int, device: torch.device) -> Self:
        """Room for them."""
        # Each by itself: kernels are compiled for addresses that are multiples of 16.
        ids, position, block = (torch.zeros(batch, lanes, dtype=torch.long, device=device) for _ in range(3))
        return cls(ids, position, block, torch.zeros(batch, lanes, capacity, dtype=torch.bool, device=device))

    def put(self, ids: torch.Tensor, position: torch.Tensor, block: torch.Tensor, seen: torch.Tensor) -> None:
        """Put other tokens there."""
        self.ids.copy_(ids)
        self.position.copy_(position)
        self.block.copy_(block)
        self.seen.copy_(seen)
