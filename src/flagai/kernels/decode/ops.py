"""The products and the attention of a decoding step with few rows: Triton kernels, and what they compute in torch."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from flagai.kernels.decode.common import ACTIVATIONS, MOST_ROWS, Slots, layer_norm
from flagai.kernels.decode.quantized_ops import quantized_linear_act_residual, quantized_qkv_to_cache
from flagai.kernels.decode.rows_product import rows_product
from flagai.kernels.hardware import SM_COUNT, next_power_of_2, pdl_options
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.quantized_linear import QuantizedLinear

# Numbers of a matrix that one program holds; there should be a program for every SM, or two small ones.
_NUMBERS = 16384
AnyLinear = nn.Linear | QuantizedLinear


@dataclass(frozen=True)
class Tiling:
    """How a product is cut into programs.

    Args:
        rows: rows of the matrix that a program takes.
        columns: how many of their numbers it takes at once.
        warps: warps of a program.
        stages: how many tiles are under way at once.
    """

    rows: int
    columns: int
    warps: int
    stages: int = 1

    @classmethod
    def of(cls, count: int, size: int, tokens: int) -> "Tiling":
        """Cut a matrix [count, size] that meets so many tokens.

        One token: whole rows in registers. Several: tiles for tensor cores, through shared memory.
        """
        if tokens > 1:
            wide = size >= 2048 and count >= 32 * SM_COUNT
            return cls(32 if wide else 16, min(256, max(64, next_power_of_2(size))), 4, 5 if wide else 4)
        columns = next_power_of_2(size)
        rows = max(2 if columns > _NUMBERS // 2 else 1, _NUMBERS // columns)
        while rows > 1 and count // rows < 2 * SM_COUNT:
            rows //= 2
        return cls(rows, columns, 8 if rows * columns >= _NUMBERS else 4)


def linear_act_residual(
    tokens: torch.Tensor,
    layer: AnyLinear,
    *,
    norm: nn.LayerNorm | None = None,
    activation_name: str | None = None,
    residual: torch.Tensor | None = None,
    tiling: Tiling | None = None,
    pdl: bool = True,
) -> torch.Tensor:
    """A linear layer and what stands around it, for few tokens.

    Args:
        tokens: contiguous, [M, K].
        layer: the layer, [N, K].
        norm: applied to the tokens first.
        activation_name: applied to the result.
        residual: added in the end, [M, N].
        tiling: how to cut the work.
        pdl: whether to start before the previous kernel has ended (programmatic dependent launch), where possible.

    Shape:
        -> [M, N]
    """
    if isinstance(layer, QuantizedLinear):
        return quantized_linear_act_residual(
            tokens, layer, norm=norm, activation_name=activation_name, residual=residual
        )
    from flagai.kernels.triton.decode import linear_act_residual_kernel

    (count, size), matrix = tokens.shape, layer.weight
    outputs = len(matrix)
    if tiling is None and pdl:
        found = rows_product(tokens, [layer], norm=norm, activation_name=activation_name, residual=residual)
        if found is not None:
            return found
    tiling = tiling or Tiling.of(outputs, size, count)
    tokens = tokens if norm is None else layer_norm(tokens, norm, pdl)
    out = tokens.new_empty(count, outputs)
    linear_act_residual_kernel[(-(-outputs // tiling.rows),)](
        tokens,
        matrix,
        matrix if layer.bias is None else layer.bias,
        tokens if residual is None else residual,
        out,
        outputs,
        K=size,
        M=count,
        MP=1 if count == 1 else 16,
        BN=tiling.rows,
        BK=tiling.columns,
        ACTIVATION="none" if activation_name is None else ACTIVATIONS[activation_name],
        BIAS=layer.bias is not None,
        RESIDUAL=residual is not None,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **pdl_options(tokens.device, pdl),
    )
    return out


def qkv_to_cache(
    tokens: torch.Tensor, norm: nn.LayerNorm | None, query: AnyLinear, key: AnyLinear, value: AnyLinear, slots: Slots
) -> torch.Tensor:
    """Normalise tokens, write their keys and values into the cache, and return their queries.

    One kernel reads the three matrices where they lie; so parameters need not be joined.

    Args:
        tokens: contiguous, [M, K].
        norm: applied to the tokens first; None if they are normalised.
        query: [N, K]
        key: [N, K]
        value: [N, K]
        slots: where keys and values go.

    Shape:
        -> [M, N]
    """
    if isinstance(query, QuantizedLinear):
        return quantized_qkv_to_cache(tokens, norm, cast(tuple[QuantizedLinear, ...], (query, key, value)), slots)
    from flagai.kernels.triton.decode import qkv_to_cache_kernel

    count, size = tokens.shape
    outputs = query.out_features
    found = rows_product(tokens, [query, key, value], norm=norm, slots=slots)
    if found is not None:
        return found
    tiling = Tiling.of(outputs if count > 1 else 3 * outputs, size, count)
    out = tokens.new_empty(count, outputs)
    qkv_to_cache_kernel[(3 * -(-outputs // tiling.rows),)](
        tokens if norm is None else layer_norm(tokens, norm, pdl=True),
        *(layer.weight for layer in (query, key, value)),
        *(layer.bias for layer in (query, key, value)),
        out,
        slots.keys,
        slots.values,
        slots.slot_mapping,
        outputs,
        K=size,
        M=count,
        MP=1 if count == 1 else 16,
        BN=tiling.rows,
        BK=tiling.columns,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **pdl_options(tokens.device),
    )
    return out


def new_counters(heads: int, device: torch.device) -> torch.Tensor:
    """Counters for :func:`decode_attention`, one for each head of each token."""
    return torch.zeros(MOST_ROWS * heads, dtype=torch.int32, device=device)


def decode_attention(
    query: torch.Tensor, slots: Slots, table: SlotTable, scale: float | None, counters: torch.Tensor
) -> torch.Tensor:
    """Attention of a step's tokens to the keys that a slot table names; see :func:`paged_attention`.

    The keys of a token are split among programs: as many as the GPU has room for, if there are so many keys.

    Args:
        query: [M, H * D]
        slots: the cache, with this step's keys and values in it.
        table: the keys of each token. Those of this step are the last ones of a token.
        scale: factor on the scores; None means D ** -0.5.
        counters: from :func:`new_counters`; zeros before and after each call, so that calls may share it.

    Shape:
        -> [M, H * D]
    """
    from flagai.kernels.triton.decode import decode_attention_kernel

    _, heads, width = slots.keys.shape
    count, out = len(query), torch.empty_like(query)
    block, one = next_power_of_2(width), count == 1
    keys_at_once = max(16, (4096 if one else 8192) // block)
    splits = min(max(1, 4 * SM_COUNT // (count * heads)), -(-table.slots.shape[1] // keys_at_once))
    padded = next_power_of_2(splits)
    decode_attention_kernel[(count, heads, splits)](
        query,
        slots.keys,
        slots.values,
        table.slots,
        table.lengths,
        torch.empty(count * heads * padded * (block + 2), dtype=torch.float32, device=query.device),
        counters,
        out,
        width**-0.5 if scale is None else scale,
        heads,
        table.slots.stride(0),
        count,
        D=width,
        BD=block,
        BC=keys_at_once,
        SP=padded,
        num_warps=2 if one else 4,
        **pdl_options(query.device),
    )
    return out
