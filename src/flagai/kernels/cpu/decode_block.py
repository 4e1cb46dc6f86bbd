"""Blocks of a decoding step on a CPU: the same operations, and little of Python in between."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.cpu.linear import MOST_ROWS, SkinnyLinear, is_plain
from flagai.kernels.eligible import is_untouched
from flagai.kernels.per_cache import OneByOne, PerCache
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.activations import activation
from flagai.model.layer.cache import KVCache, LayerCache
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention


class CpuDecodeBlock:
    """Computes what a :class:`PreNormBlock` with GPT-2's bricks computes without gradients.

    A step of one token through BERT-base's size is 7 MB of matrices a block, a third of a millisecond; the calls of
    modules would take as long again. Queries, keys and values are one product where they are one matrix of the file.
    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        attention, feed_forward = block.attention, block.feed_forward
        self._projections = _joined([attention.q, attention.k, attention.v])
        self._out = SkinnyLinear(attention.out.weight, attention.out.bias)
        self._up = SkinnyLinear(feed_forward.up.weight, feed_forward.up.bias)
        self._down = SkinnyLinear(feed_forward.down.weight, feed_forward.down.bias)
        self._activate = activation(feed_forward.activation_name)
        self._scale = attention.scale
        self._head_dim = attention.head_dim

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: LayerCache) -> torch.Tensor:
        """[B, S, width] -> [B, S, width]."""
        batch, count, width = hidden.shape
        rows = hidden.reshape(-1, width)
        normed = _norm(rows, self._block.norm1)
        found = [projection(normed) for projection in self._projections]
        heads = torch.cat(found, 1) if len(found) > 1 else found[0]
        # [B * S, 3 * H * D] -> three of [B, H, S, D]
        query, key, value = heads.view(batch, count, 3, -1, self._head_dim).permute(2, 0, 3, 1, 4).unbind()
        key, value = cache.append(key, value)
        attended = scaled_dot_product_attention(query, key, value, attn_mask, scale=self._scale)
        rows = rows + self._out(attended.transpose(1, 2).reshape(len(rows), -1))
        inner = self._activate(self._up(_norm(rows, self._block.norm2)))
        return (rows + self._down(inner)).view(batch, count, width)


def _norm(rows: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _joined(layers: Sequence[nn.Linear]) -> list[SkinnyLinear]:
    """One layer instead of several, if their matrices lie one after the other in one tensor of a file."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    weight, bias = _whole(weights), _whole(biases)
    if weight is None or bias is None:
        return [SkinnyLinear(*pair) for pair in zip(weights, biases, strict=True)]
    return [SkinnyLinear(weight, bias)]


def _whole(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that equal parts are cut from along the first dimension, without a copy; None if they are not."""
    first = parts[0]
    storage = first.untyped_storage().data_ptr()
    step = len(first) * first.stride(0)
    fits = all(
        part.untyped_storage().data_ptr() == storage
        and part.shape == first.shape
        and part.stride() == first.stride()
        and part.storage_offset() == first.storage_offset() + number * step
        for number, part in enumerate(parts)
    )
    return first.as_strided((len(parts) * len(first), *first.shape[1:]), first.stride()) if fits else None


def fused_stack(blocks: nn.ModuleList, _: torch.Tensor | None = None) -> OneByOne | None:
    """What computes blocks in steps on a CPU; None if they have other layers than GPT-2's, or hooks."""
    taken = len(blocks) > 0 and all(is_untouched(block) and _takes(block) for block in blocks)
    return OneByOne([CpuDecodeBlock(block) for block in blocks]) if taken else None


def _takes(block: nn.Module) -> bool:
    return not block.training and all(is_plain(parameter) for parameter in block.parameters())


_BLOCKS = PerCache(fused_stack)


def _suits(blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> bool:
    few = hidden.device.type == "cpu" and hidden.shape[0] * hidden.shape[1] <= MOST_ROWS
    return few and torch.is_inference_mode_enabled() and _BLOCKS.suits(blocks, hidden, attn_mask, cache)


@cached_blocks.faster(_suits)
def cpu_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Blocks of GPT-2's kind without the calls of their modules."""
    return _BLOCKS(hidden, attn_mask, cache)
