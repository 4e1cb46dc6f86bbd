"""Gated products of a decoding step: two matrices that lie one behind the other, and the gate, in one kernel."""

from dataclasses import dataclass
from typing import Any, cast

import torch

from flagai.kernels.decode.ops import Tiling
from flagai.kernels.decode.quantized_ops import kernel_config, tile_options
from flagai.kernels.hardware import pdl_options


@dataclass(frozen=True)
class JoinedLinear:
    """Layers whose matrices lie one behind the other, as one; see :class:`QuantizedLinear` for packed ones."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    in_features: int
    out_features: int
    bits: int = 16
    group: int = 0
    weight_scale: torch.Tensor | None = None


def gated_linear(tokens: torch.Tensor, joined: JoinedLinear) -> torch.Tensor | None:
    """The product of silu(gate) and value, of one token.

    Args:
        tokens: contiguous, [M, K].
        joined: matrices [N, K] of the gate and of the value, without biases.

    Shape:
        -> [1, N]; None for several tokens.
    """
    from flagai.kernels.triton.rotary import gated_linear_kernel, quantized_gated_linear_kernel

    outputs = joined.out_features // 2
    if len(tokens) > 1:
        return None
    out = tokens.new_empty(1, outputs)
    if joined.weight_scale is not None:
        layer = cast(Any, joined)
        config = kernel_config(layer, 1)
        words = joined.weight.view(torch.int32)
        quantized_gated_linear_kernel[(-(-outputs // config.rows),)](
            tokens,
            words,
            joined.weight_scale,
            out,
            outputs,
            words.numel() // 2,
            joined.weight_scale.numel() // 2,
            **tile_options(layer, 1, config),
            **pdl_options(tokens.device),
        )
        return out
    tiling = Tiling.of(joined.out_features, joined.in_features, 1)
    rows = max(1, tiling.rows // 2)
    gated_linear_kernel[(-(-outputs // rows),)](
        tokens,
        joined.weight,
        out,
        outputs,
        K=joined.in_features,
        BN=rows,
        BK=tiling.columns,
        num_warps=tiling.warps,
        **pdl_options(tokens.device),
    )
    return out
