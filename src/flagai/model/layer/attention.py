"""Multi-head attention: self or cross, any mask, with or without a cache."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.layer.linear import Linear
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

if TYPE_CHECKING:
    from flagai.model.layer.cache import LayerCache
    from flagai.model.layer.rotary import Rotation


class Attention(nn.Module):
    """Multi-head attention with separate projections for queries, keys and values.

    The number of heads is read from the projected width, so a tensor-parallel shard needs no other code.

    Args:
        width: size of the input and the output.
        num_heads: number of heads.
        num_kv_heads: number of heads of keys and values, each of which serves as many neighbouring heads of queries
            (grouped-query attention); default ``num_heads``.
        head_dim: size of a head; default ``width / num_heads``.
        bias: whether the projections have biases.
        out_bias: whether the last layer has one; default ``bias``.
        scale: factor on the scores; None means ``head_dim ** -0.5``.
        dropout: probability of dropping an attention weight.

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim or width // num_heads
        self.scale = scale
        self.dropout = dropout
        inner, shared = num_heads * self.head_dim, (num_kv_heads or num_heads) * self.head_dim
        self.q = Linear(width, inner, bias=bias)
        self.k = Linear(width, shared, bias=bias)
        self.v = Linear(width, shared, bias=bias)
        self.out = Linear(inner, width, bias=bias if out_bias is None else out_bias)

    def forward(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        memory: torch.Tensor | None = None,
        cache: "LayerCache | None" = None,
        rotation: "Rotation | None" = None,
    ) -> torch.Tensor:
        """Attend from ``hidden`` to itself and its cached past; :class:`CrossAttention` attends to ``memory``.

        Args:
            hidden: [B, Q, width]
            attn_mask: which keys each query attends to.
            memory: the encoder's output, [B, K, width].
            cache: past keys and values.
            rotation: rotary positions of ``hidden``.

        Shape:
            -> [B, Q, width]
        """
        query = self.split_heads(self.q(hidden))
        if rotation is not None:
            query = rotation.turn(query)
        key, value = self.keys_and_values(hidden, memory, cache, rotation)
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(query, key, value, attn_mask, scale=self.scale, dropout=dropout)
        return self.out(attended.transpose(1, 2).flatten(2))

    def keys_and_values(
        self, hidden: torch.Tensor, memory: torch.Tensor | None, cache: "LayerCache | None", rotation: "Rotation | None"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the queries attend to, two of [B, H, K, D]; extends the cache by keys that have been turned."""
        key, value = self.project(hidden)
        if rotation is not None:
            key = rotation.turn(key)
        return (key, value) if cache is None else cache.append(key, value)

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, [B, S, width] -> two of [B, H, S, D]."""
        return self.split_heads(self.k(hidden)), self.split_heads(self.v(hidden))

    def split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """[B, S, H * D] -> [B, H, S, D]."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class CrossAttention(Attention):
    """Attention from a decoder to an encoder's output, whose keys and values are computed once per cache."""

    def keys_and_values(
        self, hidden: torch.Tensor, memory: torch.Tensor | None, cache: "LayerCache | None", rotation: "Rotation | None"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of the encoder's output, which has no rotary positions."""
        if cache is not None and cache.cross is not None:
            return cache.cross
        if memory is None:
            raise InputError("The decoder needs the encoder's output, and no earlier call has left it in the cache.")
        key, value = self.project(memory)
        if cache is not None:
            cache.keep_cross(key, value)
        return key, value
