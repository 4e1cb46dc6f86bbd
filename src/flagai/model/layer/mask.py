"""Typed attention masks: which keys each query attends to, said once per forward pass.

Masks are values that are joined with ``&``; :func:`prepare_mask` turns them into the form that attention takes.
Queries are the last ``queries`` of ``keys`` positions: with a cache, the earlier keys lie in it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flagai.model.layer.sdpa import AttentionMask

if TYPE_CHECKING:
    from flagai.model.layer.packed_row import PackedRow


class Mask:
    """Base of the masks."""

    def __and__(self, other: "Mask") -> "Mask":
        """A mask that allows the pairs that both allow."""
        return Both(self, other)

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """The mask as booleans, True where a query attends to a key.

        Shape:
            [B or 1, 1, queries or 1, keys]
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Causal(Mask):
    """Every position attends to itself and to the positions before it."""

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """True at earlier tokens and the token itself, [1, 1, queries, keys]."""
        rows = torch.arange(keys - queries, keys, device=device)
        return (torch.arange(keys, device=device) <= rows[:, None])[None, None]


@dataclass(frozen=True)
class Prefix(Mask):
    """Every position attends to the first positions of the queries and to all cached keys; the rest is causal.

    This is GLM's separator and the mask of UniLM.

    Args:
        lengths: how many of the query positions every position attends to, [B] or [1].
    """

    lengths: torch.Tensor

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """True at tokens of the prefix and at earlier ones, [B, 1, queries, keys]."""
        open_keys = self.lengths.to(device).view(-1, 1, 1, 1) + (keys - queries)
        return (torch.arange(keys, device=device) < open_keys) | Causal().dense(queries, keys, device)


@dataclass(frozen=True)
class Padding(Mask):
    """No position attends to padding.

    Args:
        valid: True at tokens that are not padding, [B, keys].
    """

    valid: torch.Tensor

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """True at non-padding tokens, [B, 1, 1, keys]."""
        return self.valid.to(device)[:, None, None, -keys:]


@dataclass(frozen=True)
class Dense(Mask):
    """A given matrix.

    Args:
        allowed: True where a query attends to a key, [B or 1, H or 1, queries, keys or more]; the last keys count.
    """

    allowed: torch.Tensor

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """The last rows and columns of the given matrix."""
        return self.allowed.to(device)[..., -queries:, -keys:]


@dataclass(frozen=True)
class Packed(Mask):
    """Texts that share a row attend only to themselves.

    Args:
        row: where the texts lie.
    """

    row: "PackedRow"

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """True at tokens of the same text, [1, 1, queries, keys]."""
        text = torch.arange(len(self.row.lengths)).repeat_interleave(torch.tensor(self.row.lengths)).to(device)
        return (text[-queries:, None] == text[-keys:])[None, None]


@dataclass(frozen=True)
class Both(Mask):
    """The pairs that two masks allow."""

    first: Mask
    second: Mask

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """True where both masks are, [B or 1, 1, queries or 1, keys]."""
        return self.first.dense(queries, keys, device) & self.second.dense(queries, keys, device)


def prepare_mask(
    mask: Mask | None,
    queries: int,
    keys: int,
    device: torch.device,
    bias: torch.Tensor | None = None,
) -> AttentionMask:
    """Choose the cheapest form of a mask; computed once and used by every layer.

    A query without any key (that of a padding token) attends to all keys instead: its output means nothing, but must
    not be NaN, because the next layer multiplies it by zero.

    Args:
        mask: the mask; None allows everything.
        queries: number of query positions.
        keys: number of key positions, cached ones included.
        device: where the result is needed.
        bias: scores to add, [B or 1, H, queries, keys]; T5's relative positions. For :class:`Packed` texts, the
            scores of the longest, of which shorter ones take the first rows and columns.
    """
    if isinstance(mask, Packed):
        return AttentionMask(bias, packed=mask.row, cu_seqlens=mask.row.cu_seqlens(device))
    if mask is None or (isinstance(mask, Causal) and queries == 1):
        return AttentionMask(bias)
    if isinstance(mask, Causal) and queries == keys and bias is None:
        return AttentionMask(causal=True)
    allowed = mask.dense(queries, keys, device)
    if allowed.device.type == "cpu" and not torch.compiler.is_compiling() and bool(allowed.all()):
        return AttentionMask(bias)
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return AttentionMask(allowed if bias is None else bias.where(allowed, -torch.inf))
