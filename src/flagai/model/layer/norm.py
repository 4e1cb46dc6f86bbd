"""Normalisation layers."""

import torch
from torch import nn

LayerNorm = nn.LayerNorm


class RMSNorm(nn.Module):
    """Scale by the root mean square, without mean or bias, as T5 does.

    The statistics are computed in float32 and the result has the weight's type, so that a residual stream
    may be wider than the weights.

    Args:
        width: the size of the last dimension.
        eps: added to the mean square.

    Shape:
        [..., width] -> [..., width]

    Source:
        Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension."""
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(self.weight.dtype) * self.weight
