"""Blocks of a decoding step on a CPU: the same operations, and little of Python in between."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.cpu.linear import MOST_ROWS, SkinnyLinear, is_plain
from flagai.kernels.cpu.slot_plan import Plan, plan_of
from flagai.kernels.eligible import is_untouched
from flagai.kernels.per_cache import PerCache
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.activations import activation
from flagai.model.layer.adjacent import adjacent
from flagai.model.layer.cache import KVCache
from flagai.model.layer.paged_attention import SlotTable, paged_attention
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

# Attention with the cache: (queries, keys and values [R, 3, H, D], layer, scale) -> R times H * D numbers.
Attend = Callable[[torch.Tensor, int, float | None], torch.Tensor]


class CpuDecodeBlock:
    """Computes what a :class:`PreNormBlock` with GPT-2's layers computes without gradients.

    A step of one token through BERT-base's size is 7 MB of matrices a block, a third of a millisecond; the calls of
    modules would take as long again. Queries, keys and values are one product where they are one matrix of the file.
    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        attention, feed_forward = block.attention, block.feed_forward
        self.projections = _joined([attention.q, attention.k, attention.v])
        self._out = SkinnyLinear(attention.out.weight, attention.out.bias)
        self._up = SkinnyLinear(feed_forward.up.weight, feed_forward.up.bias)
        self._down = SkinnyLinear(feed_forward.down.weight, feed_forward.down.bias)
        self._activate = activation(feed_forward.activation_name)
        self._scale = attention.scale
        self._head_dim = attention.head_dim

    def __call__(self, rows: torch.Tensor, attend: Attend, index: int) -> torch.Tensor:
        """Compute the block, [R, width] -> [R, width].

        Args:
            rows: the hidden states.
            attend: attention with the cache.
            index: the layer.
        """
        normed = _norm(rows, self._block.norm1)
        found = [projection(normed) for projection in self.projections]
        joint = (torch.cat(found, 1) if len(found) > 1 else found[0]).view(rows.shape[0], 3, -1, self._head_dim)
        rows = rows + self._out(attend(joint, index, self._scale).reshape(rows.shape[0], -1))
        return rows + self._down(self._activate(self._up(_norm(rows, self._block.norm2))))


class _ByMask:
    """Attention of a step over a cache in the order of the text.

    Args:
        size: number of texts and of tokens of each, (B, S).
        attn_mask: what each token attends to.
        cache: the cache.
    """

    def __init__(self, size: torch.Size, attn_mask: AttentionMask, cache: KVCache) -> None:
        self._size, self._attn_mask, self._cache = size, attn_mask, cache

    def __call__(self, joint: torch.Tensor, index: int, scale: float | None) -> torch.Tensor:
        """[B * S, 3, H, D] -> [B, S, H, D]."""
        query, key, value = joint.view(*self._size, *joint.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
        key, value = self._cache.append(index, key, value)
        return scaled_dot_product_attention(query, key, value, self._attn_mask, scale=scale).transpose(1, 2)


class _BySlots:
    """Attention of a step by a slot table, whose plan all layers share; heads are not turned to the front and back.

    Args:
        table: the table.
        bias: scores to add by the distance.
        step: the pool, and where the step's keys go.
    """

    def __init__(self, table: SlotTable, bias: torch.Tensor | None, step: PagedStep) -> None:
        self._table, self._bias, self._step = table, bias, step
        self._plan: Plan | None = None

    def __call__(self, joint: torch.Tensor, index: int, scale: float | None) -> torch.Tensor:
        """[T, 3, H, D] -> [T, H, D]."""
        pool, (query, key, value) = self._step.pool, joint.unbind(1)
        pool.write(index, self._step.slot_mapping, key, value)
        tensors = pool.layer(index)
        if self._plan is None and not self._table.static:
            self._plan = plan_of(tensors[0], self._table)
        if self._plan is not None and self._plan.distinct:
            return self._plan.attend(query, tensors, self._bias, scale)
        return paged_attention(query, *tensors, self._table, bias=self._bias, scale=scale)


class CpuDecodeStack:
    """Computes blocks one after the other.

    Args:
        blocks: what computes each of them.
    """

    def __init__(self, blocks: Sequence[CpuDecodeBlock]) -> None:
        self.blocks = blocks

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        attend: Attend = _ByMask(hidden.shape[:2], attn_mask, cache)
        if attn_mask.table is not None:
            attend = _BySlots(attn_mask.table, attn_mask.tensor, cast(PagedStep, cache))
        rows = hidden.reshape(-1, hidden.shape[2])
        for index, block in enumerate(self.blocks):
            rows = block(rows, attend, index)
        return rows.view(hidden.shape)


def _norm(rows: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _joined(layers: Sequence[nn.Linear]) -> list[SkinnyLinear]:
    """One layer instead of several, if their matrices lie one after the other in one tensor of a file."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    weight, bias = adjacent(weights), adjacent(biases)
    if weight is None or bias is None:
        return [SkinnyLinear(*pair) for pair in zip(weights, biases, strict=True)]
    return [SkinnyLinear(weight, bias)]


def fused_stack(blocks: nn.ModuleList, _: torch.Tensor | None = None) -> CpuDecodeStack | None:
    """What computes blocks in steps on a CPU; None if they have other layers than GPT-2's, or hooks."""
    taken = len(blocks) > 0 and all(is_untouched(block) and _takes(block) for block in blocks)
    return CpuDecodeStack([CpuDecodeBlock(block) for block in blocks]) if taken else None


def _takes(block: nn.Module) -> bool:
    return not block.training and all(is_plain(parameter) for parameter in block.parameters())


_BLOCKS = PerCache(fused_stack)


def _suits(blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> bool:
    few = hidden.device.type == "cpu" and hidden.shape[0] * hidden.shape[1] <= MOST_ROWS
    return few and torch.is_inference_mode_enabled() and _BLOCKS.suits(blocks, hidden, attn_mask, cache, **cross)


@cached_blocks.faster(_suits)
def cpu_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Blocks of GPT-2's kind without the calls of their modules."""
    return _BLOCKS(hidden, attn_mask, cache)
