"""ChatGLM2's to GLM-4's blocks of a decoding step, for models on a GPU in half precision: products and few kernels.

A step reads every matrix once. What stands between two products is one kernel: a norm; rotary positions, with keys and
values written into their slots; the attention of grouped heads; the gate.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.decode.common import MOST_ROWS, Slots, within_limits
from flagai.kernels.decode.gated_linear import JoinedLinear, gated_linear
from flagai.kernels.decode.ops import linear_act_residual
from flagai.kernels.decode.quantized_ops import quantized_linear_act_residual
from flagai.kernels.decode.t5_block import normed
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.kernels.per_cache import PerCache, Stack
from flagai.model.block.pre_norm_block import PreNormBlock
from flagai.model.block.sandwich_block import SandwichBlock
from flagai.model.block.stack import cached_blocks, prepare_decoding
from flagai.model.layer.adjacent import adjacent, make_adjacent
from flagai.model.layer.attention import Attention
from flagai.model.layer.cache import KVCache
from flagai.model.layer.gated_feed_forward import GatedFeedForward
from flagai.model.layer.kernel_choice import is_hooked
from flagai.model.layer.linear import Linear
from flagai.model.layer.norm import RMSNorm
from flagai.model.layer.paged_attention import SlotTable, paged_attention
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.rotary import Rotation
from flagai.model.layer.sdpa import AttentionMask

_WIDEST = 16384
# Numbers that a program of the gate computes.
_BLOCK = 1024


class RotaryStack:
    """Computes the blocks of a step; it reads their parameters where they are.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks: list[Any] = list(blocks)

    def __call__(
        self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, *, rotation: Rotation
    ) -> torch.Tensor:
        """[1, T, width] -> [1, T, width]; ``attn_mask`` has a slot table."""
        step, tokens, table = cast(PagedStep, cache), hidden[0].contiguous(), cast(SlotTable, attn_mask.table)
        for index, block in enumerate(self._blocks):
            attention, feed_forward, sandwich = block.attention, block.feed_forward, isinstance(block, SandwichBlock)
            query = _query(normed(tokens, block.norm1), attention, rotation, _slots(step, index, attention, tokens))
            attended = paged_attention(query, *step.pool.layer(index), table, scale=attention.scale).flatten(1)
            tokens = _added(tokens, attended, attention.out, block.norm1_out if sandwich else None)
            inner = _gated(normed(tokens, block.norm2), feed_forward)
            tokens = _added(tokens, inner, feed_forward.down, block.norm2_out if sandwich else None)
        return tokens[None]


def _joined(layers: Sequence[Any], few: bool) -> JoinedLinear | None:
    """Layers as one; None if they do not lie so. Packed ones are, for the kernels of few tokens."""
    kinds, first = {(type(layer), getattr(layer, "bits", 16)) for layer in layers}, layers[0]
    packed = type(first) is QuantizedLinear
    weight = adjacent([layer.weight for layer in layers]) if len(kinds) == 1 and (few or not packed) else None
    scale = adjacent([layer.weight_scale for layer in layers]) if packed else None
    if weight is None or (packed and scale is None):
        return None
    biases = [layer.bias for layer in layers]
    bias = None if first.bias is None else adjacent(biases)
    if bias is None and first.bias is not None:
        bias = torch.cat(biases)
    form = (first.bits, first.group, scale) if packed else ()
    return JoinedLinear(weight, bias, first.in_features, len(weight), *form)


def _product(tokens: torch.Tensor, layer: Any, activation_name: str | None = None) -> torch.Tensor:
    """[T, K] -> [T, N]; more tokens than the kernels of few take are torch's."""
    if len(tokens) <= MOST_ROWS:
        packed = isinstance(layer, JoinedLinear) and layer.bits < 16
        kernel: Any = quantized_linear_act_residual if packed else linear_act_residual
        made: torch.Tensor = kernel(tokens, layer, activation_name=activation_name)
        return made
    found: torch.Tensor = (
        F.linear(tokens, layer.weight, layer.bias) if isinstance(layer, JoinedLinear) else layer(tokens)
    )
    return found if activation_name is None else F.silu(found)


def _slots(step: PagedStep, index: int, attention: Any, tokens: torch.Tensor) -> Slots:
    if step.pool.keys[index] is None:  # writing makes the pool
        none = tokens.new_empty(0, attention.k.out_features // attention.head_dim, attention.head_dim)
        step.pool.write(index, step.slot_mapping[:0], none, none)
    return Slots.of(step, index)


def _query(tokens: torch.Tensor, attention: Any, rotation: Rotation, slots: Slots) -> torch.Tensor:
    """Turned queries, [T, H, D]; turned keys, and values, are in their slots."""
    from flagai.kernels.triton.rotary import rotary_to_cache_kernel

    layers = (attention.q, attention.k, attention.v)
    joined, sizes = _joined(layers, len(tokens) <= MOST_ROWS), [layer.out_features for layer in layers]
    parts = (
        [_product(tokens, layer) for layer in layers] if joined is None else _product(tokens, joined).split(sizes, 1)
    )
    width = attention.head_dim
    heads, groups = sizes[0] // width, sizes[1] // width
    query = tokens.new_empty(len(tokens), heads, width)
    rotary_to_cache_kernel[(len(tokens), heads + 2 * groups)](
        *parts,
        rotation.cos,
        rotation.sin,
        slots.slot_mapping,
        query,
        slots.keys,
        slots.values,
        *(part.stride(0) for part in parts),
        heads,
        groups,
        D=width,
        BD=next_power_of_2(width),
        TURNED=rotation.features,
        num_warps=1,
        **pdl_options(tokens.device),
    )
    return query


def _gated(tokens: torch.Tensor, feed_forward: Any) -> torch.Tensor:
    """What goes into the last layer of a gated feed-forward layer, [T, width] -> [T, inner]."""
    from flagai.kernels.triton.rotary import swiglu_kernel

    joined = _joined((feed_forward.gate, feed_forward.value), len(tokens) <= MOST_ROWS)
    if joined is None:
        gate = _product(tokens, feed_forward.gate, feed_forward.activation_name)
        return gate * _product(tokens, feed_forward.value)
    if (fused := gated_linear(tokens, joined)) is not None:
        return fused
    both = _product(tokens, joined)
    inner = both.new_empty(len(both), both.shape[1] // 2)
    swiglu_kernel[(-(-inner.numel() // _BLOCK),)](
        both, inner, inner.numel(), inner.shape[1], BLOCK=_BLOCK, num_warps=4, **pdl_options(tokens.device)
    )
    return inner


def _added(residual: torch.Tensor, tokens: torch.Tensor, layer: Any, norm: RMSNorm | None) -> torch.Tensor:
    """The sum of a residual and a layer, which a norm may follow."""
    if norm is not None:
        return residual + normed(_product(tokens, layer), norm)
    if len(tokens) <= MOST_ROWS:
        return linear_act_residual(tokens, layer, residual=residual)
    return residual + layer(tokens) if type(layer) is not Linear else torch.addmm(residual, tokens, layer.weight.t())


def takes_rotary_block(block: nn.Module) -> bool:
    """Whether a block has exactly ChatGLM2's or GLM-4-0414's layers, unchanged, in half precision."""
    if type(block) not in (PreNormBlock, SandwichBlock):
        return False
    own: Any = block
    attention, feed_forward = own.attention, own.feed_forward
    if type(attention) is not Attention or type(feed_forward) is not GatedFeedForward:
        return False
    projections = (attention.q, attention.k, attention.v)
    layers = (*projections, attention.out, feed_forward.gate, feed_forward.value, feed_forward.down)
    norms: list[Any] = [norm for name, norm in block.named_children() if name.startswith("norm")]
    return (
        not any(map(is_hooked, block.modules()))
        and not block.training
        and getattr(block, "cross_attention", None) is None
        and feed_forward.activation_name in ("silu", "swish")
        and attention.head_dim <= 256
        and all(type(layer) in (Linear, QuantizedLinear) and within_limits(layer) for layer in layers)
        and len({layer.bias is None for layer in projections}) == 1
        and all(layer.bias is None for layer in layers[3:])
        and all(type(norm) is RMSNorm and len(norm.weight) <= _WIDEST for norm in norms)
        and _ordinary(block, norms[0].weight)
    )


def _ordinary(block: nn.Module, gain: torch.Tensor) -> bool:
    """Whether parameters are plain ones in one piece, of one type that the kernels take; packed ones have their own."""
    packed = {
        id(each)
        for layer in block.modules()
        if type(layer) is QuantizedLinear
        for each in (layer.weight, layer.weight_scale)
    }
    return has_triton_half(gain.device, gain.dtype) and all(
        type(each) is nn.Parameter and each.is_contiguous() and (each.dtype is gain.dtype or id(each) in packed)
        for each in block.parameters()
    )


def _stack(blocks: nn.ModuleList, _: torch.Tensor) -> Stack | None:
    return RotaryStack(blocks) if len(blocks) and all(map(takes_rotary_block, blocks)) else None


_STACKS = PerCache(_stack)


def _suits(blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> bool:
    """Whether it computes these tokens: those of steps."""
    rotation = cross.get("rotation")
    return (
        isinstance(rotation, Rotation)
        and rotation.neighbours
        and rotation.cos.shape[-2] == 1
        and len(rotation.cos) == len(hidden) == 1
        and isinstance(cache, PagedStep)
        and attn_mask.table is not None
        and attn_mask.tensor is None
        and not torch.is_grad_enabled()
        and hidden.is_contiguous()
        # One answer for all numbers of rows.
        and _STACKS.suits(blocks, hidden[:, :1], attn_mask, cache)
    )


@cached_blocks.faster(_suits, jit=True)
def rotary_blocks(
    blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
) -> torch.Tensor:
    """Blocks of ChatGLM2's kind: products, with all that stands between two of them in one kernel."""
    return RotaryStack(blocks)(hidden, attn_mask, cache, **cross)


def _has_projections(blocks: nn.ModuleList) -> bool:
    return len(blocks) > 0 and all(map(takes_rotary_block, blocks))


@prepare_decoding.faster(_has_projections)
def join_gated_projections(blocks: nn.ModuleList) -> None:
    """Let the matrices of queries, keys and values, and those of gate and value, lie side by side."""
    for block in blocks:
        attention, feed_forward = cast(Any, block).attention, cast(Any, block).feed_forward
        for layers in ((attention.q, attention.k, attention.v), (feed_forward.gate, feed_forward.value)):
            for name in ("weight", "weight_scale", "bias"):
                parts = [part for layer in layers if (part := getattr(layer, name, None)) is not None]
                if len(parts) == len(layers) and len({part.dtype for part in parts}) == 1:
                    make_adjacent(parts)
