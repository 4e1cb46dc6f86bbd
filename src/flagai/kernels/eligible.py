"""Which modules a kernel may compute: those of our own classes that no hook, subclass or other parameter changes."""

from typing import Any

from torch import nn

from flagai.model.block.residual import PreNormBlock
from flagai.model.layer.attention import Attention
from flagai.model.layer.feed_forward import FeedForward
from flagai.model.layer.linear import Linear
from flagai.model.layer.operation import is_hooked
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.parallel.dtensor import unsharded_type


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
        and len({(unsharded_type(layer), getattr(layer, "bits", None)) for layer in linear}) == 1
        and all(unsharded_type(layer) in (Linear, QuantizedLinear) and layer.bias is not None for layer in linear)
        and all(unsharded_type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
    )
