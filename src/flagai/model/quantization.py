"""Weight-only quantization of a model's blocks: int8 or int4 instead of 16 bits, which every decoding step reads.

"int8" and "int4" are for the blocks. "int8-all" and "int4-all" also keep the token embedding in int8, if no other
parameter shares it: it is the head of GLM and GPT-2, and a fourteenth of the bytes of a GLM-10b step in int4.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import nn

from flagai.checkpoint.quantization import GROUPS
from flagai.errors import ConfigError, InputError
from flagai.model.block.stack import BlockStack
from flagai.model.config import ModelConfig
from flagai.model.layer.adapted import adapter_names
from flagai.model.layer.checked_embedding import CheckedEmbedding
from flagai.model.layer.embedding import Embeddings
from flagai.model.layer.gated_feed_forward import KeepFloat32Linear
from flagai.model.layer.linear import Linear
from flagai.model.layer.quantized_embedding import QuantizedEmbedding
from flagai.model.layer.quantized_linear import BITS, QuantizedLinear
from flagai.typed_json import shown

# The entry of config.json that says how a folder's weights are quantized.
KEY = "quantized"
_ALL = "-all"
SCHEMES = (*BITS, *(how + _ALL for how in BITS))
_Module = TypeVar("_Module", bound=nn.Module)


def quantize(model: Any, how: str, *, device: torch.device | None = None) -> None:
    """Quantize the linear layers of a model's blocks, in place, one after the other.

    Embeddings, norms, biases and heads keep their dtype, but for the token embedding in the schemes that end in "-all".

    Args:
        model: a model of any family; for decoding and encoding only, it cannot be trained any more.
        how: one of ``SCHEMES``.
        device: where each quantized layer is placed and computed; default where the layer is.

    Raises:
        InputError: there is no such scheme; the model is quantized already, spread over processes, or of a width that
            cannot be packed.
    """
    bits = read_bits(how)
    present = how_quantized(model)
    if present is not None:
        raise InputError(f"The model is {present} already. Load it anew with quantize={how!r}.")
    if getattr(model, "sharding", None) is not None:
        raise InputError("Models spread over processes (mesh=, fsdp=) cannot be quantized.")
    if adapter_names(model):
        raise InputError("The model has adapters. Load it with quantize=, and its adapters then.")
    found = list(_layers(model))
    odd = sorted({layer.in_features for _, _, layer in found if layer.in_features % GROUPS[-1]})
    if odd:
        raise InputError(f"Layers with {odd} inputs cannot be quantized: {GROUPS[-1]} must divide their number.")
    for owner, name, layer in found:
        made = QuantizedLinear.of(layer, bits, wide=isinstance(layer, KeepFloat32Linear), device=device)
        setattr(owner, name, made)
    if how.endswith(_ALL):
        for owner, name, table in list(_token_embeddings(model)):
            setattr(owner, name, QuantizedEmbedding.of(table, device=device))
    model.eval()


def read_bits(how: str) -> int:
    """The bits of a weight that a user names.

    Raises:
        InputError: there is no such scheme.
    """
    if how not in SCHEMES:
        raise InputError(f"quantize={how!r} is unknown. Known: {', '.join(SCHEMES)}.")
    return BITS[how.removesuffix(_ALL)]


def how_quantized(model: nn.Module) -> str | None:
    """How a model is quantized: one of ``SCHEMES``, or None."""
    bits = next((layer.bits for layer in model.modules() if isinstance(layer, QuantizedLinear)), None)
    how = next((how for how, number in BITS.items() if number == bits), None)
    tables = any(isinstance(layer, QuantizedEmbedding) for layer in model.modules())
    return how + _ALL if how and tables else how


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers in blocks: owner, name in it, and layer."""
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            for owner in stack.modules():
                for name, layer in owner.named_children():
                    if type(layer) in (Linear, KeepFloat32Linear):
                        yield owner, name, layer  # type: ignore[misc]


def _token_embeddings(model: nn.Module) -> Iterator[tuple[nn.Module, str, CheckedEmbedding]]:
    """The token embeddings that no other layer shares: owner, name in it, and embedding."""
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for owner in model.modules():
        if (
            isinstance(owner, Embeddings)
            and type(owner.token) is CheckedEmbedding
            and names[id(owner.token.weight)] == 1
        ):
            yield owner, "token", owner.token


@dataclass(frozen=True)
class Quantization:
    """How a model is quantized while it is loaded."""

    stored: str | None  # how the files are
    wanted: str | None  # how they will be stored, if they are not

    @classmethod
    def read(cls, config: ModelConfig, quantize: str | None, *, spread: bool) -> Self:
        """Understand what the configuration and the user say.

        Args:
            config: the model's configuration.
            quantize: what the user asks for.
            spread: whether the model is spread over processes.

        Raises:
            InputError: there is no such scheme, or it does not fit the files or with processes.
            ConfigError: the configuration names an unknown scheme.
        """
        stored = config.get(KEY)
        if stored is not None and stored not in SCHEMES:
            raise ConfigError(f"The configuration says {KEY}={shown(stored)}. Known: {', '.join(SCHEMES)}.")
        if quantize is not None:
            read_bits(quantize)
        if stored is not None and quantize not in (None, stored):
            raise InputError(f"The weights are {stored} already; quantize={quantize!r} needs the original ones.")
        if spread and (stored or quantize):
            raise InputError("Models spread over processes (mesh=, fsdp=) cannot be quantized.")
        return cls(stored, None if stored else quantize)

    def apply(self, model: _Module) -> _Module:
        """Quantize a model with randomly initialized weights."""
        how = self.stored or self.wanted
        if how is not None:
            quantize(model, how)
        return model
