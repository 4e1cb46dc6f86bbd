"""LoRA adapters through PEFT, put into our models and merged out of them again."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from flagai.model.base_model import BaseModel
from flagai.train.needs import peft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft.tuners.lora import LoraLayer

# The projections that adapters are added to, as the paper does; every family has them under these names.
_TARGETS = ["q", "v"]


def add_lora(model: BaseModel, rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Add adapters to all attention layers; only they, and heads that are new, are trained then.

    Args:
        model: a model; it stays of its class.
        rank: of the adapters.
        alpha: their scale; default twice the rank.
        dropout: probability of dropping a feature of an adapter's input.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    library = peft()
    config = library.LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=_TARGETS)
    library.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in model.fresh) and "prompt" not in name:
            parameter.requires_grad_(True)


def merge(model: BaseModel) -> None:
    """Add the adapters to the weights, until :func:`unmerge`."""
    for layer in _adapters(model):
        layer.merge()


def unmerge(model: BaseModel) -> None:
    """Take the adapters out of the weights again, so that training can go on."""
    for layer in _adapters(model):
        layer.unmerge()


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a merged model under the names that it had before :func:`add_lora`."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def _adapters(model: BaseModel) -> "Iterator[LoraLayer]":
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))
