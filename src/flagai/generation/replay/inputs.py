"""What a static step reads: tensors that stay where they are."""

from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Inputs:
    """The newest tokens, and where they stand.

    Args:
        ids: [B, W]
        both: positions in the text, and GLM's positions inside of a span, [2, B, W].
        seen: which slots of the cache each token sees, [B, W, capacity].
    """

    ids: torch.Tensor
    both: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def empty(cls, batch: int, lanes: int, capacity: int, device: torch.device) -> Self:
        """Room for them."""
        ids = torch.zeros(batch, lanes, dtype=torch.long, device=device)
        # An even number of rows: kernels are compiled for addresses that are multiples of 16.
        both = ids.new_zeros(2, batch + batch % 2, lanes)[:, :batch]
        return cls(ids, both, torch.zeros(batch, lanes, capacity, dtype=torch.bool, device=device))

    @property
    def position(self) -> torch.Tensor:
        """Positions in the text, [B, W]."""
        return self.both[0]

    @property
    def block(self) -> torch.Tensor:
        """Positions inside of a span, [B, W]."""
        return self.both[1]

    def put(self, ids: torch.Tensor, position: torch.Tensor, block: torch.Tensor, seen: torch.Tensor) -> None:
        """Put other tokens there."""
        self.ids.copy_(ids)
        self.position.copy_(position)
        self.block.copy_(block)
        self.seen.copy_(seen)
