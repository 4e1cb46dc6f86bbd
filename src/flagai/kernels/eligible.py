"""Which modules a kernel may compute: those of our own classes that no hook, subclass or other parameter changes."""

from typing import Any, TypeGuard

from torch import nn

from flagai.model.block.pre_norm_block import PreNormBlock
from flagai.model.layer.attention import Attention
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.kernel_choice import is_hooked
from flagai.model.layer.linear import Linear
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.parallel.dtensor import unsharded_type


def is_plain_linear(layer: nn.Module) -> TypeGuard[Linear]:
    """Whether a layer is our own linear one with a bias, whose product and bias a kernel may compute."""
    return (
        type(layer) is Linear and layer.bias is not None and type(layer.weight) is nn.Parameter and not is_hooked(layer)
    )


def is_plain_norm(norm: nn.Module, largest: int) -> TypeGuard[nn.LayerNorm]:
    """Whether a module is torch's layer norm over one dimension of at most this size, with weight and bias."""
    return (
        isinstance(norm, nn.LayerNorm)
        and type(norm).forward is nn.LayerNorm.forward
        and len(norm.normalized_shape) == 1
        and norm.normalized_shape[0] <= largest
        and type(norm.weight) is nn.Parameter
        and type(norm.bias) is nn.Parameter
        and not is_hooked(norm)
    )


def linear_layers(block: Any) -> tuple[Any, ...]:
    """The linear layers of a block with GPT-2's layers: q, k, v, out, up, down."""
    attention, feed_forward = block.attention, block.feed_forward
    return (attention.q, attention.k, attention.v, attention.out, feed_forward.up, feed_forward.down)


def is_untouched(block: nn.Module) -> bool:
    """Whether a block has exactly GPT-2's layers, unchanged."""
    if not isinstance(block, PreNormBlock) or type(block).forward is not PreNormBlock.forward:
        return False
    attention, feed_forward = block.attention, block.feed_forward
    if unsharded_type(attention) is not Attention or unsharded_type(feed_forward) is not FeedForward:
        return False
    linear, norms = linear_layers(block), (block.norm1, block.norm2)
    hooked = any(map(is_hooked, block.modules()))
    return (
        not hooked
        and block.cross_attention is None
        and attention.k.out_features == attention.q.out_features
        and len({(unsharded_type(layer), getattr(layer, "bits", None)) for layer in linear}) == 1
        and all(unsharded_type(layer) in (Linear, QuantizedLinear) and layer.bias is not None for layer in linear)
        and all(unsharded_type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
    )
