"""Attention of packed sequences on a GPU in half precision: kernels for short texts, flash attention for others."""

from typing import cast

import torch

from flagai.kernels.hardware import HALF, has_triton_half, is_ampere
from flagai.kernels.packed.attention_autograd import MAX_HEAD, length_classes, short_attention_autograd
from flagai.kernels.packed.short_attention import MAX_SEQLEN, short_attention, single_tile
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

# The widest heads of torch.nn.attention.varlen (flash attention) and, without gradients, of the kernel for short texts.
_MAX_VARLEN_HEAD, _MAX_SHORT_HEAD = 256, 128


def _suits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> bool:
    """Whether flash attention takes these packed sequences."""
    return (
        attn_mask.cu_seqlens is not None
        and attn_mask.tensor is None
        and query.shape[1] == key.shape[1]
        and suits_varlen(query.dtype, query.shape[-1], scale, dropout)
        and is_ampere(query.device)
    )


def suits_varlen(dtype: torch.dtype, head: int, scale: float | None, dropout: float) -> bool:
    """Whether torch's flash attention for packed sequences takes heads of this size and dtype."""
    return scale is None and not dropout and dtype in HALF and head % 8 == 0 and head <= _MAX_VARLEN_HEAD


@scaled_dot_product_attention.faster(_suits, traceable=True)
def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Packed sequences in one kernel: ours for short ones, else flash attention."""
    # [1, H, T, D] -> [T, H, D]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return _attend_rows(query, key, value, attn_mask).transpose(0, 1)[None]


def _attend_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: AttentionMask) -> torch.Tensor:
    row, cu_seqlens = cast(PackedRow, attn_mask.packed), cast(torch.Tensor, attn_mask.cu_seqlens)
    if _suits_short(query, row):
        if not torch.is_grad_enabled():
            tiles = single_tile(row.max_seqlen)
            return short_attention(query, key, value, cu_seqlens, tiles, causal=attn_mask.causal)
        if query.shape[2] <= MAX_HEAD and not attn_mask.causal:
            return short_attention_autograd(query, key, value, cu_seqlens, length_classes(row))
    from torch.nn.attention.varlen import varlen_attn  # registers operators: not for every import of a model

    most, window = row.max_seqlen, (-1, 0) if attn_mask.causal else (-1, -1)
    found = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, most, most, window_size=window)
    return cast(torch.Tensor, found)


def _suits_short(query: torch.Tensor, row: PackedRow) -> bool:
    return (
        row.max_seqlen <= MAX_SEQLEN
        and query.shape[-1] <= _MAX_SHORT_HEAD
        and has_triton_half(query.device, query.dtype)
        and not torch.compiler.is_compiling()
    )
