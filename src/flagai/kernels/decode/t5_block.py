"""T5's decoder blocks of a decoding step, for models on a GPU whose weights are half precision.

T5's matrices are small, so a step costs what its launches cost, and most of those are norms: seven for each, where one
kernel is enough. Products and attention are torch's; kernels of our own for T5's products were slower.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.model.block.pre_norm_block import PreNormBlock
from flagai.model.block.t5_block import T5Block
from flagai.model.layer.attention import Attention, CrossAttention
from flagai.model.layer.cache import LayerCache
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.gated_feed_forward import GatedFeedForward, KeepFloat32Linear
from flagai.model.layer.kernel_choice import is_hooked
from flagai.model.layer.linear import Linear, linear_act
from flagai.model.layer.norm import RMSNorm
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention

# Features of a token that one program of the norm holds.
_WIDEST = 16384


class FusedT5Block:
    """Computes what a decoder's :class:`T5Block` computes, for the tokens of one step.

    It has no parameters of its own: it reads the block's where they are.

    Args:
        block: the block.
    """

    def __init__(self, block: Any) -> None:
        self._block = block

    def __call__(
        self,
        hidden: torch.Tensor,
        attn_mask: AttentionMask,
        *,
        cache: LayerCache,
        memory: torch.Tensor | None = None,
        memory_attn_mask: AttentionMask | None = None,
    ) -> torch.Tensor:
        """[1, T, width] -> [1, T, width]; see :meth:`PreNormBlock.forward`."""
        block = self._block
        attended = _attended(block.attention, normed(hidden, block.norm1), attn_mask, cache)
        hidden = _added(hidden, attended, block.attention.out)
        asking, seen = normed(hidden, block.norm_cross), memory_attn_mask or AttentionMask()
        attended = _attended(block.cross_attention, asking, seen, cache, memory)
        hidden = _added(hidden, attended, block.cross_attention.out)
        feed_forward = block.feed_forward
        inner = _inner(feed_forward, normed(hidden, block.norm2))
        return _added(hidden, inner, feed_forward.down)


def normed(hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
    """The norm of states in one kernel, [..., width] -> [..., width]."""
    from flagai.kernels.triton.rms_norm import rms_norm_kernel

    hidden, size = hidden.contiguous(), hidden.shape[-1]
    out = torch.empty_like(hidden, dtype=norm.weight.dtype)
    cut, options = {"K": size, "BK": next_power_of_2(size)}, pdl_options(hidden.device)
    rms_norm_kernel[(hidden.numel() // size,)](hidden, norm.weight, norm.eps, out, **cut, num_warps=4, **options)
    return out


def _attended(
    attention: Any,
    hidden: torch.Tensor,
    attn_mask: AttentionMask,
    cache: LayerCache,
    memory: torch.Tensor | None = None,
) -> torch.Tensor:
    """What attention has found, before its last layer, [1, T, H * D]."""
    query = attention.split_heads(attention.q(hidden))
    key, value = attention.keys_and_values(hidden, memory, cache, None)
    found: torch.Tensor = scaled_dot_product_attention(query, key, value, attn_mask, scale=attention.scale)
    return found.transpose(1, 2).flatten(2)


def _inner(feed_forward: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What goes into the last layer, in its type."""
    dtype = feed_forward.down.weight.dtype
    if isinstance(feed_forward, GatedFeedForward):
        gate = linear_act(feed_forward.gate, hidden, feed_forward.activation_name)
        return gate.to(dtype) * feed_forward.value(hidden).to(dtype)
    return linear_act(feed_forward.up, hidden, feed_forward.activation_name).to(dtype)


def _added(residual: torch.Tensor, hidden: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """A layer's result and the residual; the product itself adds, unless the residual stream is wider (float16)."""
    if not residual.dtype == hidden.dtype == layer.weight.dtype:
        return residual + F.linear(hidden, layer.weight)
    rows = torch.addmm(residual.flatten(0, -2), hidden.flatten(0, -2), layer.weight.t())
    return rows.view_as(residual)


def takes_t5_block(block: nn.Module) -> bool:
    """Whether a block has exactly T5's layers, unchanged, with parameters that the kernel takes."""
    if type(block) is not T5Block or type(block).forward is not PreNormBlock.forward:
        return False
    own, cross, feed_forward = block.attention, block.cross_attention, block.feed_forward
    if type(own) is not Attention or type(cross) is not CrossAttention:
        return False
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    hooked = any(map(is_hooked, block.modules()))
    return (
        not hooked
        and bool(linear)  # quantized layers are others
        and type(feed_forward) in (FeedForward, GatedFeedForward)
        and all(type(layer) in (Linear, KeepFloat32Linear) and layer.bias is None for layer in linear)
        and all(type(norm) is RMSNorm for norm in (block.norm1, block.norm_cross, block.norm2))
        and _ordinary(block)
    )


def _ordinary(block: T5Block) -> bool:
    """Whether parameters are plain ones, of types that the kernel takes."""
    gain = cast(nn.Parameter, block.norm1.weight)
    return (
        has_triton_half(gain.device, gain.dtype)
        and len(gain) <= _WIDEST
        and all(type(parameter) is nn.Parameter for parameter in block.parameters())
    )
