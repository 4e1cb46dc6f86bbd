"""Attention of single tokens to keys that lie anywhere in a pool of slots (paged attention).

Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention".
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from flagai.model.layer.operation import operation


@dataclass(eq=False)
class SlotTable:
    """Where the keys of tokens lie in a :class:`~flagai.model.layer.paged_cache.PagedCache`.

    Args:
        slots: for each token the slots of its keys, in the order of its text, int32 [T, L]; behind the last: any slot.
        lengths: number of keys of each token, int32 [T].
        static: whether the call is captured, so that the tensors have other values when it is replayed.
        lanes: how many neighbouring tokens are of one text, whose first slots are the same; they divide T.
    """

    slots: torch.Tensor
    lengths: torch.Tensor
    static: bool = False
    lanes: int = 1


@operation
def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of each token to the keys that its row of a slot table names; zeros for a token without keys.

    Args:
        query: [T, H, D]
        keys: a pool, [slots, Hk, D]; each head serves H / Hk heads of the queries (grouped-query attention).
        values: [slots, Hk, D]
        table: the slots of each token's keys.
        bias: scores to add by the distance from the last key, [H, distances]; all larger distances take the last one.
        scale: factor on the scores; None means D ** -0.5.

    Shape:
        -> [T, H, D]
    """
    slots, lengths = table.slots, table.lengths
    places = torch.arange(slots.shape[1], device=slots.device)
    allowed = places < lengths[:, None]
    mask = allowed | (lengths[:, None] == 0)
    if bias is not None:
        distance = (lengths[:, None] - 1 - places).clamp(0, bias.shape[1] - 1)
        scores = bias[:, distance].transpose(0, 1)  # [T, H, L]
        mask = scores.masked_fill(~mask[:, None], -torch.inf)[:, :, None].to(query.dtype)
    else:
        mask = mask[:, None, None]
    index = slots.masked_fill(~allowed, 0).flatten()
    key, value = (
        pool.index_select(0, index).view(*slots.shape, *pool.shape[1:]).transpose(1, 2) for pool in (keys, values)
    )
    found = F.scaled_dot_product_attention(
        query[:, :, None], key, value, attn_mask=mask, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
    )
    return found[:, :, 0].masked_fill((lengths == 0)[:, None, None], 0)
