"""Blocks of a decoding step in five kernels, for models on a GPU whose weights are half precision."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.cuda.whole_stack import megakernel_blocks
from flagai.kernels.decode.ops import ACTIVATIONS, MOST_ROWS, Slots, attend_slots, fits, product, project
from flagai.kernels.decode.t5_block import faster_t5_blocks
from flagai.kernels.eligible import is_untouched, linear_layers
from flagai.kernels.hardware import has_triton_half
from flagai.model.block.stack import BlockStack
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.mask import AttentionMask
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.static_cache import StaticCache
from flagai.parallel.dtensor import is_sharded, local


class FusedPreNorm:
    """Computes what a :class:`PreNormBlock` with GPT-2's bricks computes, for one step over a static cache.

    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: LayerCache) -> torch.Tensor:
        """[B, W, width] -> [B, W, width]; ``attn_mask`` has booleans, [B, 1, W, capacity]."""
        static, block = cast(StaticCache, cache.cache), self._block
        seen = cast(torch.Tensor, attn_mask.tensor)[:, 0]
        tokens = hidden.flatten(0, 1).contiguous()
        attention, feed_forward = block.attention, block.feed_forward
        slots = Slots(*static.buffers(cache.index), static.now)
        query = project(tokens, block.norm1, attention.q, attention.k, attention.v, slots)
        attended = attend_slots(query, slots, seen, attention.scale)
        tokens = product(attended, attention.out, residual=tokens)
        inner = product(tokens, feed_forward.up, norm=block.norm2, activation_name=feed_forward.activation_name)
        return product(inner, feed_forward.down, residual=tokens).view_as(hidden)


def faster_blocks(model: Any, rows: int) -> Sequence[Callable[..., torch.Tensor]]:
    """What may compute a decoder's blocks in a step of this many rows; empty if only the blocks themselves may.

    Args:
        model: a model that writes.
        rows: number of tokens in a step.
    """
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        return faster_t5_blocks(model)
    found = list(blocks) if isinstance(blocks, BlockStack) else []
    fits = bool(found) and rows <= MOST_ROWS and all(is_untouched(block) and _fits(block) for block in found)
    if model.sharding is not None and model.sharding.tp_group is not None:
        return _joint(model.sharding, found, fits)
    if not fits:
        return ()
    single = [FusedPreNorm(block) for block in found]
    return megakernel_blocks(found, rows, single) or single


def _joint(sharding: Any, blocks: list[nn.Module], fits: bool) -> Sequence[Callable[..., torch.Tensor]]:
    """The same for ranks that share a model, who use the kernels together or not at all."""
    if not sharding.all_agree(fits):
        return ()
    from flagai.kernels.decode.tensor_parallel_block import joint_blocks

    return joint_blocks(blocks, sharding, cast(Any, blocks[0]).norm1.weight.numel())


def _fits(block: Any) -> bool:
    """Whether the kernels take a block of these bricks."""
    linear = linear_layers(block)
    return (
        block.feed_forward.activation_name in ACTIVATIONS
        and all(fits(layer) for layer in linear)
        and block.attention.head_dim <= 256
        and _plain([parameter for parameter in block.parameters() if not _is_quantized(parameter, linear)])
    )


def _is_quantized(parameter: nn.Parameter, layers: Sequence[nn.Module]) -> bool:
    quantized = (layer for layer in layers if type(layer) is QuantizedLinear)
    return any(parameter is layer.weight or parameter is layer.weight_scale for layer in quantized)


def _plain(parameters: list[nn.Parameter]) -> bool:
    """Whether parameters are ordinary ones, of one type that the kernels take, in one piece."""
    first = parameters[0]
    return has_triton_half(first.device, first.dtype) and all(
        (type(parameter) is nn.Parameter or is_sharded(parameter))
        and parameter.dtype is first.dtype
        and local(parameter).is_contiguous()
        for parameter in parameters
    )
