"""Blocks of a decoding step in five kernels, for models on a GPU whose weights are half precision."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from flagai.kernels.decode.common import ACTIVATIONS, Slots, within_limits
from flagai.kernels.decode.ops import decode_attention, linear_act_residual, new_counters, qkv_to_cache
from flagai.kernels.eligible import linear_layers
from flagai.kernels.hardware import has_triton_half
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.sdpa import AttentionMask
from flagai.parallel.dtensor import is_sharded, local


class FusedPreNormBlock:
    """Computes what a :class:`PreNormBlock` with GPT-2's layers computes, for the tokens of one step.

    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        heads = block.attention.q.out_features // block.attention.head_dim
        self._counters = new_counters(heads, block.norm1.weight.device)

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, *, cache: LayerCache) -> torch.Tensor:
        """[1, T, width] -> [1, T, width]; ``attn_mask`` has a slot table."""
        step, block = cast(PagedStep, cache.cache), self._block
        tokens = hidden.flatten(0, 1).contiguous()
        attention, feed_forward = block.attention, block.feed_forward
        slots, table = Slots.of(step, cache.index), cast(SlotTable, attn_mask.table)
        query = qkv_to_cache(tokens, block.norm1, attention.q, attention.k, attention.v, slots)
        attended = decode_attention(query, slots, table, attention.scale, self._counters)
        tokens = linear_act_residual(attended, attention.out, residual=tokens)
        inner = linear_act_residual(
            tokens, feed_forward.up, norm=block.norm2, activation_name=feed_forward.activation_name
        )
        return linear_act_residual(inner, feed_forward.down, residual=tokens).view_as(hidden)


def takes_block(block: Any) -> bool:
    """Whether the kernels take a block that :func:`~flagai.kernels.eligible.is_untouched` accepts."""
    linear = linear_layers(block)
    return (
        block.feed_forward.activation_name in ACTIVATIONS
        and all(within_limits(layer) for layer in linear)
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
