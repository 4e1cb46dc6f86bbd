"""The products and the attention of a decoding step of T5: Triton kernels, and what they compute in torch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer.activation import activation
from flagai.model.layer.decoding import ACTIVATIONS, Slots, _early, _power
from flagai.model.layer.norm import RMSNorm

# More tokens than this are better served by torch's products: every program reads all tokens.
MOST_TOKENS = 64
# Tensor cores take tokens by the eight.
_FEWEST_TOKENS = 8
# Slots of the cache that a program looks at together, and at most so many of the encoder's text that it holds.
_SLOTS = 64
_MOST_HELD_SLOTS = 256
# Rows of a matrix that are held whole, if there are few tokens beside them.
_LONGEST_HELD = 1024
_MOST_BESIDE_HELD = 16
# Bytes of shared memory for pieces that are under way; a program may have 227 KB in all.
_SHARED = 160 << 10


@dataclass(frozen=True)
class Tiles:
    """How a product is cut into programs.

    Args:
        rows: rows of the matrix that a program takes.
        warps: warps of a program; each takes a part of the features.
        depth: features that a warp takes at once; if those of all warps are a whole row, it is held.
    """

    rows: int
    warps: int
    depth: int

    @classmethod
    def of(cls, size: int, tokens: int) -> "Tiles":
        """Cut a matrix with rows of this size that meets so many tokens."""
        if size <= _LONGEST_HELD and tokens <= _MOST_BESIDE_HELD:
            return cls(16, 8, max(16, _power(size) // 8))
        return cls(16, 8, 32 if size <= 1024 else 64)

    def options(self, size: int, count: int, matrices: int = 1) -> dict[str, Any]:
        """Constants of a kernel for so many tokens of a size."""
        tokens, together = max(_FEWEST_TOKENS, _power(count)), self.warps * self.depth
        under_way = _SHARED // (2 * together * (matrices * self.rows + tokens))
        return {
            "K": size,
            "M": count,
            "MP": tokens,
            "BN": self.rows,
            "S": self.warps,
            "KS": self.depth,
            "LINES": _power(-(-size // 64)),
            "num_warps": self.warps,
            "num_stages": 1 + max(1, min(under_way, -(-size // together))),
        }


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
    tiles = tiles or Tiles.of(size, count)
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
        ACTIVATION="none" if activation_name is None else ACTIVATIONS[activation_name],
        NORMED=gain is not None,
        GATED=gated is not None,
        RESIDUAL=residual is not None,
        **tiles.options(size, count, 1 if gated is None else 2),
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
    tiles = tiles or Tiles.of(size, count)
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
        LANES=len(slots.now),
        D=slots.keys.shape[3],
        NORMED=gain is not None,
        **tiles.options(size, count),
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
    whole = now is None and capacity <= _MOST_HELD_SLOTS
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
        BC=max(16, _power(capacity)) if whole else _SLOTS,
        SCORED=scored,
        GROWING=now is not None,
        WHOLE=whole,
        num_warps=8 if whole else 4,
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
