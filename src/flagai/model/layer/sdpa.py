"""Scaled dot-product attention, of padded or packed sequences."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

from flagai.model.layer.operation import operation

if TYPE_CHECKING:
    from flagai.model.layer.packed_row import PackedRow
    from flagai.model.layer.paged_attention import SlotTable


# Not frozen: torch.compile checks every field of a frozen dataclass before each call, also the lengths of packed texts.
@dataclass(eq=False)
class AttentionMask:
    """A mask in the form that attention takes.

    Args:
        tensor: booleans (True: attend) or scores to add, broadcastable to [B, H, queries, keys]; None: no limit. With
            ``table``, scores by the distance from the last key, [H, distances].
        causal: use attention's own causal path; ``tensor`` is None then.
        packed: texts that share one row and attend only to themselves; ``tensor`` has the scores of the longest then.
        cu_seqlens: where the packed texts begin, and the end, on the device; see ``PackedRow.cu_seqlens``.
        table: where the keys of single tokens lie in a pool; keys and values are those of the pool then.
        static: whether the call is captured, so that ``cu_seqlens`` has other values when it is replayed; ``packed`` is
            one text then, as long as all together.
    """

    tensor: torch.Tensor | None = None
    causal: bool = False
    packed: "PackedRow | None" = None
    cu_seqlens: torch.Tensor | None = None
    table: "SlotTable | None" = None
    static: bool = False


@operation
def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot-product attention.

    Args:
        query: [B, H, Q, D]; with a slot table [1, H, T, D].
        key: [B, Hk, K, D], where Hk divides H; with a slot table the pool, [slots, Hk, D].
        value: the same.
        attn_mask: which keys each query attends to, and scores to add.
        scale: factor on the scores; None means D ** -0.5.
        dropout: probability of dropping an attention weight.

    Shape:
        -> [B, H, Q, D]
    """
    mask = attn_mask.tensor
    if attn_mask.table is not None:
        from flagai.model.layer.paged_attention import paged_attention  # most models have no paged cache

        tokens = query[0].transpose(0, 1)
        return paged_attention(tokens, key, value, attn_mask.table, bias=mask, scale=scale).transpose(0, 1)[None]
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    if attn_mask.static:
        mask = _same_text(attn_mask, query.shape[2])
    elif attn_mask.packed is not None:
        return _packed(query, key, value, attn_mask, mask, scale, dropout)
    causal, grouped = attn_mask.causal and not attn_mask.static, query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _same_text(attn_mask: AttentionMask, count: int) -> torch.Tensor:
    """Which packed tokens attend to which, by tensors alone, [T, T]."""
    ends = cast(torch.Tensor, attn_mask.cu_seqlens)[1:]
    text = torch.bucketize(torch.arange(count, device=ends.device), ends, right=True)
    same = text[:, None] == text
    return same.tril() if attn_mask.causal else same


def _packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: AttentionMask,
    bias: torch.Tensor | None,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """Packed texts, neighbours of equal length at once, [1, H, T, D]."""
    # [T, H, D]: heads were split from the features, so their values are contiguous in this order.
    parts = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs, begin = [], 0
    for count, length in cast("PackedRow", attn_mask.packed).runs:
        end = begin + count * length
        query, key, value = (part[begin:end].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        mask = None if bias is None else bias[..., :length, :length]
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=attn_mask.causal,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        begin = end
    return torch.cat(outputs).transpose(0, 1)[None]
