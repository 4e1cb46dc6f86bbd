"""T5's decoder blocks of a decoding step in eight kernels, for models on a GPU whose weights are half precision."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.block.residual import PreNormBlock
from flagai.model.block.stack import BlockStack
from flagai.model.block.t5_block import T5Block
from flagai.model.layer.attention import Attention, CrossAttention
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.decoding import ACTIVATIONS, Slots, usable
from flagai.model.layer.decoding_t5 import MOST_TOKENS, t5_attend, t5_product, t5_project
from flagai.model.layer.feed_forward import FeedForward, Float32InHalf, GatedFeedForward
from flagai.model.layer.linear import Linear
from flagai.model.layer.mask import Visibility
from flagai.model.layer.norm import RMSNorm
from flagai.model.layer.static_cache import StaticCache


class FusedT5:
    """Computes what a decoder's :class:`T5Block` computes, for one step over a static cache.

    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block

    def __call__(
        self,
        hidden: torch.Tensor,
        visibility: Visibility,
        *,
        cache: LayerCache,
        memory: torch.Tensor | None = None,
        memory_visibility: Visibility | None = None,
    ) -> torch.Tensor:
        """[B, W, width] -> [B, W, width]; masks are broadcastable to [B, H, W, capacity]."""
        static, block = cast(StaticCache, cache.cache), self._block
        own, cross = block.attention, block.cross_attention
        tokens = hidden.flatten(0, 1).contiguous()
        slots = Slots(*static.buffers(cache.index), static.now)
        query = t5_project(tokens, block.norm1, own.q, own.k, own.v, slots)
        seen = cast(torch.Tensor, visibility.tensor)
        attended = t5_attend(query, slots.keys, slots.values, seen, own.scale, slots.now)
        tokens = t5_product(attended, own.out, residual=tokens)
        query = t5_product(tokens, cross.q, norm=block.norm_cross)
        seen = cast(torch.Tensor, cast(Visibility, memory_visibility).tensor)
        keys, values = cast(tuple[torch.Tensor, torch.Tensor], cache.cross)
        attended = t5_attend(query, keys, values, seen, cross.scale)
        tokens = t5_product(attended, cross.out, residual=tokens)
        return self._fed_forward(tokens).view_as(hidden)

    def _fed_forward(self, tokens: torch.Tensor) -> torch.Tensor:
        feed_forward = self._block.feed_forward
        gated = isinstance(feed_forward, GatedFeedForward)
        down = feed_forward.down
        inner = t5_product(
            tokens,
            feed_forward.gate if gated else feed_forward.up,
            norm=self._block.norm2,
            activation_name=feed_forward.activation_name,
            gated=feed_forward.value if gated else None,
            dtype=down.weight.dtype,
        )
        if down.weight.dtype is torch.float32:  # float16: see Float32InHalf
            return tokens + F.linear(inner, down.weight)
        return t5_product(inner, down, residual=tokens)


def faster_t5_blocks(model: Any, rows: int) -> Sequence[Callable[..., torch.Tensor]]:
    """What may compute the blocks of T5's decoder in a step of this many rows; see :func:`faster_blocks`.

    Args:
        model: a model that writes.
        rows: number of tokens in a step.
    """
    blocks = getattr(getattr(model, "decoder", None), "blocks", None)
    if not isinstance(blocks, BlockStack) or rows > MOST_TOKENS or not all(_fits(block) for block in blocks):
        return ()
    return [FusedT5(block) for block in blocks]


def _fits(block: nn.Module) -> bool:
    """Whether a block is made of just these bricks, which nobody has changed."""
    if type(block) is not T5Block or type(block).forward is not PreNormBlock.forward:
        return False
    own, cross, feed_forward = block.attention, block.cross_attention, block.feed_forward
    if type(own) is not Attention or type(cross) is not CrossAttention:
        return False
    if type(feed_forward) not in (FeedForward, GatedFeedForward):
        return False
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
    return (
        not hooked
        and feed_forward.activation_name in ACTIVATIONS
        and all(type(layer) in (Linear, Float32InHalf) and layer.bias is None for layer in linear)
        and all(type(norm) is RMSNorm for norm in (block.norm1, block.norm_cross, block.norm2))
        and own.head_dim <= 256
        and _ordinary(block)
    )


def _ordinary(block: T5Block) -> bool:
    """Whether parameters are plain ones, in one piece, of one type that the kernels take."""
    dtype, device = block.norm1.weight.dtype, block.norm1.weight.device
    last = cast(nn.Linear, block.feed_forward.down).weight
    wide = (dtype, torch.float32) if dtype is torch.float16 else (dtype,)
    return usable(cast(torch.device, device), cast(torch.dtype, dtype)) and all(
        type(parameter) is nn.Parameter
        and parameter.is_contiguous()
        and (parameter.dtype in wide if parameter is last else parameter.dtype is dtype)
        for parameter in block.parameters()
    )
