"""Which kernels run the blocks of a decoding step; decided once for each pool and number of rows."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.cuda.whole_stack import whole_stack
from flagai.kernels.decode.block import FusedPreNormBlock, takes_block
from flagai.kernels.decode.common import MOST_ROWS
from flagai.kernels.decode.t5_block import FusedT5Block, takes_t5_block
from flagai.kernels.eligible import is_untouched
from flagai.kernels.per_cache import OneByOne, PerCache, Stack
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.cache import KVCache
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.sdpa import AttentionMask
from flagai.parallel.dtensor import local


def _takes(blocks: nn.ModuleList, hidden: torch.Tensor) -> bool:
    few = hidden.shape[0] * hidden.shape[1] <= MOST_ROWS
    return few and len(blocks) > 0 and all(is_untouched(block) and takes_block(block) for block in blocks)


def _ranks(blocks: nn.ModuleList) -> Any:
    """The ranks over which tensor parallelism shards the blocks; None if it does not."""
    return getattr(getattr(blocks[0], "attention", None), "tp_group", None) if len(blocks) else None


def _tensor_parallel(blocks: nn.ModuleList, hidden: torch.Tensor) -> Stack | None:
    """Ranks use the kernels together or not at all."""
    ranks = _ranks(blocks)
    if ranks is None:
        return None
    from flagai.kernels.decode.tensor_parallel_block import TensorParallelBlocks  # imports torch.distributed
    from flagai.parallel.collectives import all_agree

    agreed = all_agree(_takes(blocks, hidden), ranks, hidden.device)
    return TensorParallelBlocks(blocks, ranks, hidden.shape[-1]) if agreed else None


def _whole_stack(blocks: nn.ModuleList, hidden: torch.Tensor) -> Stack | None:
    alone = _ranks(blocks) is None and _takes(blocks, hidden)
    return whole_stack(list(blocks), hidden.shape[0] * hidden.shape[1]) if alone else None


def _fused(blocks: nn.ModuleList, hidden: torch.Tensor) -> Stack | None:
    alone = _ranks(blocks) is None and _takes(blocks, hidden)
    return OneByOne([FusedPreNormBlock(block) for block in blocks]) if alone else None


def _t5(blocks: nn.ModuleList, _: torch.Tensor) -> Stack | None:
    taken = len(blocks) > 0 and all(map(takes_t5_block, blocks))
    return OneByOne([FusedT5Block(block) for block in blocks]) if taken else None


_TENSOR_PARALLEL, _WHOLE_STACK, _FUSED, _T5 = map(PerCache, (_tensor_parallel, _whole_stack, _fused, _t5))


def _generated(per_cache: PerCache) -> Callable[..., bool]:
    def suits(
        blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
    ) -> bool:
        return (
            isinstance(cache, PagedStep)
            and attn_mask.table is not None
            and not torch.is_grad_enabled()
            and per_cache.suits(blocks, hidden, attn_mask, cache, **cross)
        )

    return suits


def _over_pool(
    per_cache: PerCache, blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache
) -> torch.Tensor:
    """Compute blocks over a pool, which is empty if the first text is one token."""
    step = cast(PagedStep, cache)
    for index, block in enumerate(blocks):
        if step.pool.keys[index] is None:
            attention: Any = block.attention
            heads = local(attention.k.weight).shape[0] // attention.head_dim
            none = hidden.new_empty(0, heads, attention.head_dim)
            step.pool.write(index, step.slot_mapping[:0], none, none)
    return per_cache(hidden, attn_mask, cache)


@cached_blocks.faster(_generated(_TENSOR_PARALLEL), jit=True)
def tensor_parallel_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Blocks sharded over ranks: two all-reduces a block, in kernels."""
    return _over_pool(_TENSOR_PARALLEL, blocks, hidden, attn_mask, cache)


@cached_blocks.faster(_generated(_WHOLE_STACK), jit=True)
def megakernel_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """All blocks in one kernel, for one token and weights of 8 or 4 bits."""
    return _over_pool(_WHOLE_STACK, blocks, hidden, attn_mask, cache)


@cached_blocks.faster(_generated(_FUSED), jit=True)
def fused_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Each block of GPT-2's kind in five kernels."""
    return _over_pool(_FUSED, blocks, hidden, attn_mask, cache)


@cached_blocks.faster(_generated(_T5), jit=True)
def fused_t5_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """T5's blocks with each norm in one kernel."""
    return _T5(hidden, attn_mask, cache, **cross)
