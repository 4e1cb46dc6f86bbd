"""Typed attention masks: who sees whom, said once per forward pass.

Masks are values that are joined with ``&``; :func:`attn_mask` turns them into what the kernel needs.
Queries are the last ``queries`` of ``keys`` positions: with a cache, the earlier keys lie in it.
"""

from dataclasses import dataclass

import torch

from flagai.model.layer.packed_row import PackedRow


class Mask:
    """Base of the masks."""

    def __and__(self, other: "Mask") -> "Mask":
        """A mask that lets through what both let through."""
        return Both(self, other)

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """The mask as booleans, True where a query sees a key.

        Shape:
            [B or 1, 1, queries or 1, keys]
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Causal(Mask):
    """Every position sees itself and what came before."""

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        rows = torch.arange(keys - queries, keys, device=device)
        return (torch.arange(keys, device=device) <= rows[:, None])[None, None]


@dataclass(frozen=True)
class Prefix(Mask):
    """Everybody sees the first positions of the queries and all cached keys; the rest is causal.

    This is GLM's separator and the mask of UniLM.

    Args:
        lengths: how many of the query positions everybody sees, [B] or [1].
    """

    lengths: torch.Tensor

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        open_keys = self.lengths.to(device).view(-1, 1, 1, 1) + (keys - queries)
        return (torch.arange(keys, device=device) < open_keys) | Causal().dense(queries, keys, device)


@dataclass(frozen=True)
class Padding(Mask):
    """Nobody sees padding.

    Args:
        valid: True at real tokens, [B, keys].
    """

    valid: torch.Tensor

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        return self.valid.to(device)[:, None, None, -keys:]


@dataclass(frozen=True)
class Dense(Mask):
    """A matrix that somebody else made.

    Args:
        visible: True where a query sees a key, [B or 1, H or 1, queries, keys or more]; the last keys count.
        no_empty_rows: whether it is known that every query sees something.
    """

    visible: torch.Tensor
    no_empty_rows: bool = False

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        return self.visible.to(device)[..., -queries:, -keys:]


@dataclass(frozen=True)
class Packed(Mask):
    """Texts that share a row see only themselves.

    Args:
        row: where the texts lie.
    """

    row: PackedRow

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        text = torch.arange(len(self.row.lengths)).repeat_interleave(torch.tensor(self.row.lengths)).to(device)
        return (text[-queries:, None] == text[-keys:])[None, None]


@dataclass(frozen=True)
class Both(Mask):
    """What two masks let through."""

    first: Mask
    second: Mask

    def dense(self, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        return self.first.dense(queries, keys, device) & self.second.dense(queries, keys, device)


@dataclass(frozen=True)
class AttentionMask:
    """A mask in the form that attention kernels take.

    Args:
        tensor: booleans (True: visible) or scores to add, broadcastable to [B, H, queries, keys]; None: no limit.
        causal: use the kernel's own causal path; ``tensor`` is None then.
        row: texts that share one row and see only themselves; ``tensor`` has the scores of the longest then.
        offsets: for kernels that take it, where these texts begin, and the end, [N + 1], int32, on the device.
    """

    tensor: torch.Tensor | None = None
    causal: bool = False
    row: PackedRow | None = None
    offsets: torch.Tensor | None = None


def prepare_mask(
    mask: Mask | None,
    queries: int,
    keys: int,
    device: torch.device,
    bias: torch.Tensor | None = None,
) -> AttentionMask:
    """Choose the cheapest form of a mask; computed once and used by every layer.

    A row that sees nothing (the row of a padding token) sees everything instead: its output means nothing,
    but it must not be NaN, because the next layer multiplies it by zero.

    Args:
        mask: the mask; None lets everything through.
        queries: number of query positions.
        keys: number of key positions, cached ones included.
        device: where the result is needed.
        bias: scores to add, [B or 1, H, queries, keys]; T5's relative positions. For :class:`Packed` texts, the
            scores of the longest, of which shorter ones take the first rows and columns.
    """
    if isinstance(mask, Packed):
        return AttentionMask(bias, row=mask.row, offsets=mask.row.on(device).offsets)
    if mask is None or (isinstance(mask, Causal) and queries == 1):
        return AttentionMask(bias)
    if isinstance(mask, Causal) and queries == keys and bias is None:
        return AttentionMask(causal=True)
    visible = mask.dense(queries, keys, device)
    if visible.device.type == "cpu" and not torch.compiler.is_compiling() and bool(visible.all()):
        return AttentionMask(bias)
    if not (isinstance(mask, Dense) and mask.no_empty_rows):
        visible = visible | ~visible.any(-1, keepdim=True)
    return AttentionMask(visible if bias is None else bias.where(visible, -torch.inf))
