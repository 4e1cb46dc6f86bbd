"""Blocks of a decoding step for ranks that share a model: the kernels of one GPU, and two sums of all ranks a block."""

from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed import ProcessGroup

from flagai.kernels.decode.common import MOST_ROWS, Slots
from flagai.kernels.decode.fused_all_reduce import RowParallelLinear, TensorParallelGroup, linear_all_reduce
from flagai.kernels.decode.ops import decode_attention, linear_act_residual, new_counters, qkv_to_cache
from flagai.model.layer.linear import Linear
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.sdpa import AttentionMask
from flagai.parallel.dtensor import local
from flagai.parallel.symmetric_memory import SymmetricBuffer, rendezvous

# What the ranks' GPUs write into, for each model.
BUFFERS: WeakKeyDictionary[nn.ModuleList, SymmetricBuffer | None] = WeakKeyDictionary()


class TensorParallelBlocks:
    """Computes a stack of :class:`PreNormBlock` with GPT-2's layers whose parameters are sharded over ranks.

    The all-reduce that ends a block is normalised for the next one in the same kernel.

    Args:
        blocks: all blocks of a decoder.
        group: the ranks over which they are sharded; all make this together.
        width: size of the hidden states.
    """

    def __init__(self, blocks: nn.ModuleList, group: ProcessGroup, width: int) -> None:
        self._blocks = [_Block(block) for block in blocks]
        if blocks not in BUFFERS:
            BUFFERS[blocks] = rendezvous(group, MOST_ROWS * width, self._blocks[0].norm1.weight.device)
        self._meeting = TensorParallelGroup(group, BUFFERS[blocks])

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: PagedStep) -> torch.Tensor:
        """[1, T, width] -> [1, T, width]; ``attn_mask`` has a slot table."""
        table = cast(SlotTable, attn_mask.table)
        tokens = hidden.flatten(0, 1).contiguous()
        if self._meeting.buffer is not None:
            self._meeting.buffer.step_counter.add_(1)
        normed = None
        norms = [block.norm1 for block in self._blocks]
        for number, (block, following) in enumerate(zip(self._blocks, [*norms[1:], None], strict=True)):
            slots = Slots.of(cache, number)
            ready, norm = (tokens, block.norm1) if normed is None else (normed, None)
            query = qkv_to_cache(ready, norm, block.query, block.key, block.value, slots)
            attended = decode_attention(query, slots, table, block.scale, block.counters)
            tokens, normed = linear_all_reduce(
                attended, block.out, self._meeting, 2 * number, residual=tokens, norm=block.norm2
            )
            inner = linear_act_residual(normed, block.up, activation_name=block.activation_name)
            tokens, normed = linear_all_reduce(
                inner, block.down, self._meeting, 2 * number + 1, residual=tokens, norm=following
            )
        return tokens.view_as(hidden)


class _Block:
    """What the kernels read of a block: this rank's parts, where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.query, self.key, self.value = _whole(attention.q), _whole(attention.k), _whole(attention.v)
        self.out, self.down = _part(attention.out), _part(feed_forward.down)
        self.up = _whole(feed_forward.up)
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        self.scale = attention.scale
        heads = self.query.out_features // attention.head_dim
        self.counters = new_counters(heads, self.norm1.weight.device)
        self.activation_name = feed_forward.activation_name


def _whole(layer: Any) -> Linear:
    """A layer with this rank's parts as ordinary parameters: the same memory."""
    weight = local(layer.weight)
    with torch.device("meta"):
        found = Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(found, name, nn.Parameter(local(parameter), requires_grad=False))
    return found


def _part(layer: Any) -> RowParallelLinear:
    whole = _whole(layer)
    bias = whole.bias
    whole.register_parameter("bias", None)
    return RowParallelLinear(whole, bias)


def _norm(norm: Any) -> nn.LayerNorm:
    with torch.device("meta"):
        found = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(found, name, nn.Parameter(local(parameter), requires_grad=False))
    return found
