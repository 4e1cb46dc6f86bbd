"""The one place where attention is computed."""

import torch
from torch.nn import functional as F

from flagai.model.layer.mask import Visibility


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
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=visibility.causal, scale=scale
    )
