"""Quantise the weights of a model's blocks: eight or four bits instead of sixteen, read by every step of decoding."""

import logging
from typing import Any

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.block.stack import BlockStack
from flagai.model.layer.feed_forward import Float32InHalf
from flagai.model.layer.linear import Linear
from flagai.model.layer.quantized import BITS, QuantizedLinear

logger = logging.getLogger(__name__)


def quantize(model: Any, how: str, *, device: torch.device | None = None) -> None:
    """Quantise the linear layers of a model's blocks, in place, one after the other.

    Embeddings, norms, biases and heads keep their type.

    Args:
        model: a model of any family.
        how: "int8" or "int4".
        device: where each quantised layer shall be, and is computed; default where it is.

    Raises:
        InputError: there is no such way, or the model is quantised already or spread over processes.
    """
    bits = read_bits(how)
    for owner, name, layer in list(layers(model)):
        made = QuantizedLinear.of(layer, bits, wide=isinstance(layer, Float32InHalf), device=device)
        setattr(owner, name, made)


def read_bits(how: str) -> int:
    """The bits of a weight that a user names.

    Raises:
        InputError: there is no such way.
    """
    if how not in BITS:
        raise InputError(f"quantize={how!r} is unknown. Known: {', '.join(BITS)}.")
    return BITS[how]


def layers(model: nn.Module) -> Any:
    """The linear layers in blocks: who has them, under which name, and themselves."""
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            for owner in stack.modules():
                for name, layer in owner.named_children():
                    if type(layer) in (Linear, Float32InHalf):
                        yield owner, name, layer
