"""The products and the attention of a decoding step of T5: Triton kernels, and what they compute in torch."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer.activation import activation
from flagai.model.layer.decoding import ACTIVATIONS, Slots, _early, _power
from flagai.model.layer.norm import RMSNorm

# More tokens than this are better served by torch's products: every program reads all tokens.
MOST_TOKENS = 64
# Slots of the cache that a program looks at together.
_SLOTS = 64


@dataclass(frozen=True)
class Tiles:
    """How a product is cut into programs.

    Args:
        rows: rows of the matrix that a program takes.
        columns: how many of their numbers it takes at once; if all, they are loaded before the tokens are there.
        warps: warps of a program.
        stages: how many tiles are under way at once.
    """

    rows: int = 16
    columns: int = 256
    warps: int = 4
    stages: int = 4


def t5_product(
    tokens: torch.Tensor,
    layer: nn.Linear,
    *,
    norm: RMSNorm | None = None,
    activation_name: str | None = None,
    gated: nn.Linear | None = None,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """A linear layer without bias and what stands around it, for few tokens.

    Args:
        tokens: contiguous, [M, K].
        layer: the layer, [N, K].
        norm: applied to the tokens first.
        activation_name: applied to the result.
        gated: a second layer, whose result the first one's is multiplied by.
        residual: added in the end, [M, N].
        dtype: type of the result; default that of the sum.
        tiles: how to cut the work.

    Shape:
        -> [M, N]
    """
    from flagai.model.layer.triton_t5 import t5_product_kernel

    matrix = layer.weight
    (count, size), outputs = tokens.shape, len(matrix)
    tiles = tiles or Tiles()
    tokens, gain = _normable(tokens, norm, matrix.dtype)
    kept = matrix.dtype if residual is None else torch.promote_types(residual.dtype, matrix.dtype)
    out = tokens.new_empty(count, outputs, dtype=dtype or kept)
    t5_product_kernel[(-(-outputs // tiles.rows),)](
        tokens,
        matrix if gain is None else gain,
        0.0 if norm is None else norm.eps,
        matrix,
        matrix if gated is None else gated.weight,
        tokens if residual is None else residual,
        out,
        outputs,
        K=size,
        M=count,
        MP=max(16, _power(count)),
        BN=tiles.rows,
        BK=tiles.columns,
        ACTIVATION="none" if activation_name is None else ACTIVATIONS[activation_name],
        NORMED=gain is not None,
        GATED=gated is not None,
        RESIDUAL=residual is not None,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **_early(tokens.device),
    )
    return out


def t5_product_reference(
    tokens: torch.Tensor,
    layer: nn.Linear,
    *,
    norm: RMSNorm | None = None,
    activation_name: str | None = None,
    gated: nn.Linear | None = None,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """What :func:`t5_product` computes."""
    normed = tokens if norm is None else norm(tokens)
    found = F.linear(normed, layer.weight)
    found = found if activation_name is None else activation(activation_name)(found)
    found = found if gated is None else found.to(dtype or found.dtype) * F.linear(normed, gated.weight)
    found = found if residual is None else found + residual
    return found if dtype is None else found.to(dtype)


def t5_project(
    tokens: torch.Tensor,
    norm: RMSNorm,
    query: nn.Linear,
    key: nn.Linear,
    value: nn.Linear,
    slots: Slots,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """Normalise tokens, write their keys and values into the cache, and return their queries.

    Args:
        tokens: contiguous, [M, K], where token b * W + w is lane w of text b.
        norm: applied to the tokens first.
        query: [N, K]
        key: [N, K]
        value: [N, K]
        slots: the cache.
        tiles: how to cut the work.

    Shape:
        -> [M, N]
    """
    from flagai.model.layer.triton_t5 import t5_projection_kernel

    (count, size), outputs = tokens.shape, query.out_features
    tiles = tiles or Tiles()
    tokens, gain = _normable(tokens, norm, query.weight.dtype)
    out = slots.keys.new_empty(count, outputs)
    t5_projection_kernel[(3 * -(-outputs // tiles.rows),)](
        tokens,
        norm.weight if gain is None else gain,
        norm.eps,
        query.weight,
        key.weight,
        value.weight,
        out,
        slots.keys,
        slots.values,
        slots.now,
        outputs,
        slots.keys.shape[2],
        K=size,
        M=count,
        MP=max(16, _power(count)),
        LANES=len(slots.now),
        D=slots.keys.shape[3],
        BN=tiles.rows,
        BK=tiles.columns,
        NORMED=gain is not None,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **_early(tokens.device),
    )
    return out


def t5_project_reference(
    tokens: torch.Tensor, norm: RMSNorm, query: nn.Linear, key: nn.Linear, value: nn.Linear, slots: Slots
) -> torch.Tensor:
    """What :func:`t5_project` computes."""
    normed, (batch, _, _, width) = norm(tokens), slots.keys.shape
    for layer, buffer in ((key, slots.keys), (value, slots.values)):
        found = F.linear(normed, layer.weight).view(batch, len(slots.now), -1, width)
        buffer.index_copy_(2, slots.now, found.transpose(1, 2))
    return F.linear(normed, query.weight)


def _normable(
    tokens: torch.Tensor, norm: RMSNorm | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens for a product, and the gains that it shall apply itself.

    In float16 the residual stream is too wide for a product: there the norm is a kernel of its own.
    """
    if norm is None or dtype is not torch.float16:
        return tokens, None if norm is None else norm.weight
    from flagai.model.layer.triton_t5 import rms_norm_kernel

    out, size = torch.empty_like(tokens, dtype=dtype), tokens.shape[1]
    rms_norm_kernel[(len(tokens),)](
        tokens, norm.weight, norm.eps, out, K=size, BK=_power(size), num_warps=4, **_early(tokens.device)
    )
    return out, None


def t5_attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
    now: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of a step's tokens to a cache, or to what the encoder said.

    Args:
        query: [M, H * D], where token b * W + w is lane w of text b.
        keys: [B, H, capacity, D]
        values: [B, H, capacity, D]
        mask: booleans (True: seen) or scores to add, broadcastable to [B, H, W, capacity].
        scale: factor on the scores; None means D ** -0.5.
        now: the slots of the lanes, [W]; nothing is seen after them. None: no end but the capacity.

    Shape:
        -> [M, H * D]
    """
    from flagai.model.layer.triton_t5 import t5_attention_kernel

    batch, heads, capacity, width = keys.shape
    lanes, scored = len(query) // batch, mask.is_floating_point()
    mask = mask.expand(batch, heads, lanes, capacity)
    out = torch.empty_like(query)
    t5_attention_kernel[(batch, heads)](
        query,
        keys,
        values,
        mask if scored else mask.view(torch.uint8),
        query if now is None else now,
        out,
        width**-0.5 if scale is None else scale,
        heads,
        capacity,
        *mask.stride()[:3],
        LANES=lanes,
        LP=max(16, _power(lanes)),
        D=width,
        BD=max(16, _power(width)),
        BC=_SLOTS,
        SCORED=scored,
        GROWING=now is not None,
        num_warps=4,
        **_early(query.device),
    )
    return out


def t5_attend_reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """What :func:`t5_attend` computes, where the mask hides what has not been written."""
    batch, heads, _, width = keys.shape
    asked = query.view(batch, -1, heads, width).transpose(1, 2)
    mask = mask.to(query.dtype) if mask.is_floating_point() else mask
    found = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=scale)
    return found.transpose(1, 2).flatten(2).flatten(0, 1)
