"""Blocks of a decoding step for ranks that share a model: the kernels of one GPU, and two sums of all ranks a block."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.decode.fused_all_reduce import Meeting, Part, joint_product
from flagai.kernels.decode.ops import MOST_ROWS, Slots, attend_slots, product, project
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.linear import Linear
from flagai.model.layer.mask import AttentionMask
from flagai.model.layer.static_cache import StaticCache
from flagai.parallel.dtensor import local
from flagai.parallel.sharding import Sharding


class JointPreNorm:
    """Computes what a :class:`PreNormBlock` with GPT-2's bricks computes whose parameters are cut over ranks.

    The sum that ends a block is normalised for the next one in the same kernel.

    Args:
        block: the block.
        number: its number.
        meeting: how the ranks add up.
        following: the block after it; None after the last one.
    """

    def __init__(self, block: Any, number: int, meeting: Meeting, following: "JointPreNorm | None") -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self._query, self._key, self._value = _whole(attention.q), _whole(attention.k), _whole(attention.v)
        self._out, self._down = _part(attention.out), _part(feed_forward.down)
        self._up = _whole(feed_forward.up)
        self._norm1, self._norm2 = _norm(block.norm1), _norm(block.norm2)
        self._scale = attention.scale
        self._activation_name = feed_forward.activation_name
        self._number = number
        self._meeting = meeting
        self._following = following
        self._normed: torch.Tensor | None = None  # what the block before has left

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: LayerCache) -> torch.Tensor:
        """[B, W, width] -> [B, W, width]; ``attn_mask`` has booleans, [B, 1, W, capacity]."""
        static = cast(StaticCache, cache.cache)
        seen = cast(torch.Tensor, attn_mask.tensor)[:, 0]
        tokens = hidden.flatten(0, 1).contiguous()
        buffer, following = self._meeting.buffer, self._following
        if buffer is not None and self._number == 0:
            buffer.step_counter.add_(1)
        normed, self._normed = self._normed, None
        slots = Slots(*static.buffers(cache.index), static.now)
        if normed is None:
            query = project(tokens, self._norm1, self._query, self._key, self._value, slots)
        else:
            query = project(normed, None, self._query, self._key, self._value, slots)
        attended = attend_slots(query, slots, seen, self._scale)
        first = 2 * self._number
        tokens, normed = joint_product(attended, self._out, self._meeting, first, residual=tokens, norm=self._norm2)
        inner = product(normed, self._up, activation_name=self._activation_name)
        norm = None if following is None else following._norm1
        tokens, normed = joint_product(inner, self._down, self._meeting, first + 1, residual=tokens, norm=norm)
        if following is not None:
            following._normed = normed
        return tokens.view_as(hidden)


def joint_blocks(blocks: Sequence[nn.Module], sharding: Sharding, width: int) -> Sequence[Callable[..., torch.Tensor]]:
    """What computes blocks that are cut over ranks; all ranks of the sharding call it together.

    Args:
        blocks: all blocks of a decoder.
        sharding: how the model is spread.
        width: size of the hidden states.
    """
    group = sharding.tp_group
    if group is None:
        return ()
    meeting = Meeting(group, sharding.symmetric_buffer(MOST_ROWS * width))
    made: list[JointPreNorm] = []
    for number, block in reversed(list(enumerate(blocks))):
        made.append(JointPreNorm(block, number, meeting, made[-1] if made else None))
    return made[::-1]


def _whole(layer: Any) -> Linear:
    """A layer with this rank's parts as ordinary parameters: the same memory."""
    weight = local(layer.weight)
    with torch.device("meta"):
        found = Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(found, name, nn.Parameter(local(parameter), requires_grad=False))
    return found


def _part(layer: Any) -> Part:
    whole = _whole(layer)
    bias = whole.bias
    whole.register_parameter("bias", None)
    return Part(whole, bias)


def _norm(norm: Any) -> nn.LayerNorm:
    with torch.device("meta"):
        found = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(found, name, nn.Parameter(local(parameter), requires_grad=False))
    return found
