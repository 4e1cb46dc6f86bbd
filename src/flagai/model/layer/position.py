"""Relative positions as scores: T5's bucketed biases."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class RelativeBias(nn.Module):
    """A learned score for every head and every distance, where far distances share buckets.

    Args:
        num_heads: number of heads.
        num_buckets: rows of the table.
        max_distance: distance from which on all positions share the last bucket.
        bidirectional: half of the buckets are for positions to the right (encoder).

    Source:
        Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, num_heads)
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self._known: dict[torch.device, torch.Tensor] = {}

    def forward(self, queries: int, keys: int) -> torch.Tensor:
        """The scores of the last ``queries`` of ``keys`` positions.

        Shape:
            -> [1, H, queries, keys]
        """
        positions = torch.arange(keys, device=self.table.weight.device)[None]
        return self.between(positions[:, keys - queries :], positions)

    def between(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """The scores of queries and keys that stand at these positions.

        Args:
            queries: [B or 1, Q]
            keys: [B or 1, K]

        Shape:
            -> [B or 1, H, Q, K]
        """
        # Distances beyond the largest count like it, so there are few: each has its scores, which are looked up.
        largest = self.max_distance
        scores = self.table(self._buckets(keys.device))
        distance = (keys[:, None, :] - queries[:, :, None]).clamp(-largest, largest) + largest
        # The table gives them head beside head; but fused attention takes only those that lie key beside key.
        return F.embedding(distance, scores).permute(0, 3, 1, 2).contiguous()

    def by_distance(self) -> torch.Tensor:
        """The scores of keys by how far they lie before the query; all larger distances have the last one.

        Shape:
            -> [H, max_distance + 1]
        """
        before = self._buckets(self.table.weight.device)[: self.max_distance + 1]
        return self.table(before).flip(0).t()

    def _buckets(self, device: torch.device) -> torch.Tensor:
        """The bucket of every distance, from the largest to the left to the largest to the right; worked out once."""
        if device not in self._known:
            with torch.inference_mode(False):
                distances = torch.arange(-self.max_distance, self.max_distance + 1, device=device)
                self._known[device] = self._bucket(distances)
        return self._known[device]

    def _bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Exact buckets for near positions, logarithmic ones for far positions."""
        buckets = self.table.num_embeddings
        offset = torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, far)
