"""What the kernels of a step's products compute, in plain torch."""

import torch
from torch import distributed, nn
from torch.nn import functional as F

from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.fused_all_reduce import RowParallelLinear, TensorParallelGroup
from flagai.model.layer.activations import activation


def linear_act_residual(
    tokens: torch.Tensor,
    layer: nn.Linear,
    *,
    norm: nn.LayerNorm | None = None,
    activation_name: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.linear_act_residual`."""
    normed = tokens if norm is None else norm(tokens)
    found = F.linear(normed, layer.weight, layer.bias)
    found = found if activation_name is None else activation(activation_name)(found)
    return found if residual is None else found + residual


def qkv_to_cache(
    tokens: torch.Tensor, norm: nn.LayerNorm, query: nn.Linear, key: nn.Linear, value: nn.Linear, slots: Slots
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.qkv_to_cache`."""
    normed = norm(tokens)
    for layer, pool in ((key, slots.keys), (value, slots.values)):
        found = F.linear(normed, layer.weight, layer.bias)
        pool.index_copy_(0, slots.slot_mapping, found.view(-1, *pool.shape[1:]))
    return F.linear(normed, query.weight, query.bias)


def linear_all_reduce(
    tokens: torch.Tensor,
    part: RowParallelLinear,
    meeting: TensorParallelGroup,
    *,
    residual: torch.Tensor,
    norm: nn.LayerNorm | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`flagai.kernels.decode.fused_all_reduce.linear_all_reduce`."""
    sums = F.linear(tokens, part.layer.weight)
    distributed.all_reduce(sums, group=meeting.group)
    out = sums + part.bias + residual
    return out, out if norm is None else norm(out)
