"""The limits, the cache and the norm of a decoding step's kernels, whatever the bits of the weights."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from flagai.kernels.hardware import next_power_of_2, pdl_options
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.quantized_linear import Quantized

# More tokens than this are better served by torch's products.
MOST_ROWS = 16
# One token meets whole rows of a matrix, in the registers of one program.
WIDEST = 16384
# Activations that the kernels know, by the names of configurations.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Slots:
    """Where a layer keeps keys and values.

    Args:
        keys: a pool, [slots, H, D].
        values: the same.
        slot_mapping: the slot of each token, [M].
    """

    keys: torch.Tensor
    values: torch.Tensor
    slot_mapping: torch.Tensor

    @classmethod
    def of(cls, cache: PagedStep, index: int) -> Self:
        """Those of a layer."""
        return cls(*cache.pool.layer(index), cache.slot_mapping)


def within_limits(layer: nn.Linear | Quantized) -> bool:
    """Whether a layer is of a size that the kernels compute."""
    # Threads read 16 bytes at a time.
    return layer.in_features <= WIDEST and (not isinstance(layer, Quantized) or layer.in_features % 32 == 0)


def layer_norm(tokens: torch.Tensor, norm: nn.LayerNorm, pdl: bool) -> torch.Tensor:
    """The norm by itself: in the products it would take the registers that loading needs; measured, 6 % slower."""
    from flagai.kernels.triton.decode import norm_kernel

    out, size = torch.empty_like(tokens), tokens.shape[1]
    norm_kernel[(len(tokens),)](
        tokens,
        norm.weight,
        norm.bias,
        norm.eps,
        out,
        K=size,
        BK=next_power_of_2(size),
        num_warps=8,
        **pdl_options(tokens.device, pdl),
    )
    return out
