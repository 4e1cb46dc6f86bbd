"""Scaled dot-product attention, of padded or packed sequences."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from flagai.model.layer.operation import operation

if TYPE_CHECKING:
    from flagai.model.layer.packed_row import PackedRow


# Not frozen: torch.compile checks every field of a frozen dataclass before each call, also the lengths of packed texts.
@dataclass(eq=False)
class AttentionMask:
    """A mask in the form that attention takes.

    Args:
        tensor: booleans (True: attend) or scores to add, broadcastable to [B, H, queries, keys]; None: no limit.
        causal: use attention's own causal path; ``tensor`` is None then.
        packed: texts that share one row and attend only to themselves; ``tensor`` has the scores of the longest then.
        cu_seqlens: where the packed texts begin, and the end, on the device; see ``PackedRow.cu_seqlens``.
    """

    tensor: torch.Tensor | None = None
    causal: bool = False
    packed: "PackedRow | None" = None
    cu_seqlens: torch.Tensor | None = None


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
        query: [B, H, Q, D]
        key: [B, H, K, D]
        value: [B, H, K, D]
        attn_mask: which keys each query attends to, and scores to add.
        scale: factor on the scores; None means D ** -0.5.
        dropout: probability of dropping an attention weight.

    Shape:
        -> [B, H, Q, D]
    """
    mask = attn_mask.tensor
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    if attn_mask.packed is not None:
        return _packed(query, key, value, attn_mask.packed, mask, scale, dropout)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=attn_mask.causal, scale=scale
    )


def _packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: "PackedRow",
    bias: torch.Tensor | None,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """Packed texts, neighbours of equal length at once, [1, H, T, D]."""
    # [T, H, D]: heads were split from the features, so their values are contiguous in this order.
    parts = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs, begin = [], 0
    for count, length in row.runs:
        end = begin + count * length
        query, key, value = (part[begin:end].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        mask = None if bias is None else bias[..., :length, :length]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        begin = end
    return torch.cat(outputs).transpose(0, 1)[None]
