"""The one place where attention is computed."""

from typing import cast

import torch
from torch.nn import functional as F

from flagai.model.layer.encoding import attend_short, one_tile, short_texts
from flagai.model.layer.mask import Visibility
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.training import WIDEST_HEAD, attend_learning, classes_of

# What torch.nn.attention.varlen (flash attention) takes.
_VARLEN_TYPES = (torch.float16, torch.bfloat16)
_VARLEN_LARGEST_HEAD = 256
_VARLEN_CAPABILITY = (8, 0)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visibility: Visibility,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot-product attention.

    Args:
        query: [B, H, Q, D]
        key: [B, H, K, D]
        value: [B, H, K, D]
        visibility: which keys each query sees, and scores to add.
        scale: factor on the scores; None means D ** -0.5.
        dropout: probability of dropping an attention weight.

    Shape:
        -> [B, H, Q, D]
    """
    mask = visibility.tensor
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    if visibility.row is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=visibility.causal, scale=scale
        )
    # [1, H, T, D] -> [T, H, D]: heads were split from the features, so this is how the numbers lie in memory.
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if visibility.offsets is not None and mask is None and scale is None and not dropout and _has_varlen(query):
        attended = _attend_varlen(rows, visibility.row, visibility.offsets)
    else:
        attended = _attend_runs(rows, visibility.row, mask, scale, dropout)
    return attended.transpose(0, 1)[None]


def _attend_runs(
    rows: list[torch.Tensor], row: PackedRow, bias: torch.Tensor | None, scale: float | None, dropout: float
) -> torch.Tensor:
    """Packed texts, as many at once as stand beside each other with the same length, [T, H, D]."""
    pieces, begin = [], 0
    for count, length in row.runs:
        end = begin + count * length
        query, key, value = (part[begin:end].unflatten(0, (count, length)).transpose(1, 2) for part in rows)
        mask = None if bias is None else bias[..., :length, :length]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
        pieces.append(attended.transpose(1, 2).flatten(0, 1))
        begin = end
    return torch.cat(pieces)


def _has_varlen(query: torch.Tensor) -> bool:
    """Whether flash attention for packed texts takes these numbers."""
    return (
        query.is_cuda
        and query.dtype in _VARLEN_TYPES
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= _VARLEN_LARGEST_HEAD
        and torch.cuda.get_device_capability(query.device) >= _VARLEN_CAPABILITY
    )


def _attend_varlen(rows: list[torch.Tensor], row: PackedRow, offsets: torch.Tensor) -> torch.Tensor:
    """Packed texts in one kernel, [T, H, D]."""
    query, key, value = rows
    if short_texts(query, row.longest):
        if not torch.is_grad_enabled():
            return attend_short(query, key, value, offsets, one_tile(row.longest))
        if query.shape[2] <= WIDEST_HEAD:
            return attend_learning(query, key, value, offsets, classes_of(row))
    from torch.nn.attention.varlen import varlen_attn  # registers operators: not for every import of a model

    return cast(torch.Tensor, varlen_attn(query, key, value, offsets, offsets, row.longest, row.longest))
