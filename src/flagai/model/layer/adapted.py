"""Adapters in linear layers: low-rank updates (LoRA) and whole heads, by name, for all or for some tokens of a call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.layer.activations import activation
from flagai.model.layer.linear import ActivatedLinear

# The name of the model without an adapter.
BASE = "base"
# The adapters of a call: a name (None for the layers' active one), and the tokens that it is for (None for all).
Groups = tuple[tuple[str | None, torch.Tensor | None], ...]
_CHOSEN: ContextVar[Groups] = ContextVar("chosen_adapters", default=((None, None),))


class LowRank(nn.Module):
    """The update of a linear layer by two small matrices.

    Args:
        a: the first one, [rank, in].
        b: the second one, [out, rank].
        scale: factor on their product.
        dropout: probability of dropping a feature of the input, in training.
        trainable: whether the matrices are parameters; else they are buffers, which no checkpoint contains.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    def __init__(
        self, a: torch.Tensor, b: torch.Tensor, scale: float, dropout: float = 0.0, *, trainable: bool = False
    ) -> None:
        super().__init__()
        _hold(self, trainable, a=a, b=b)
        self.scale, self.dropout = scale, dropout

    def forward(self, hidden: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        """The updated output: [..., in] and [..., out] -> [..., out]."""
        a, b = cast(torch.Tensor, self.a), cast(torch.Tensor, self.b)
        low = F.linear(F.dropout(hidden.to(a.dtype), self.dropout, self.training), a)
        return product + (F.linear(low, b) * self.scale).to(product.dtype)

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight with the update, and the bias."""
        update = cast(torch.Tensor, self.b).float() @ cast(torch.Tensor, self.a).float()
        return (weight.float() + update * self.scale).to(weight.dtype), bias


class Replaced(nn.Module):
    """A whole linear layer in the place of another one, such as a task's head.

    Args:
        weight: [out, in]
        bias: [out]
        trainable: see :class:`LowRank`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, trainable: bool = False) -> None:
        super().__init__()
        _hold(self, trainable, weight=weight, bias=bias)

    def forward(self, hidden: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        """[..., in] and the replaced output -> [..., out]."""
        weight, bias = cast(torch.Tensor, self.weight), cast("torch.Tensor | None", self.bias)
        return F.linear(hidden.to(weight.dtype), weight, bias).to(product.dtype)

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The own weight and bias, in the types of those."""
        own, own_bias = cast(torch.Tensor, self.weight), cast("torch.Tensor | None", self.bias)
        return own.to(weight.dtype), None if bias is None or own_bias is None else own_bias.to(bias.dtype)


def _hold(module: nn.Module, trainable: bool, **tensors: torch.Tensor | None) -> None:
    for name, tensor in tensors.items():
        if trainable:
            module.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor, persistent=False)


class LayerAdapters(nn.Module):
    """The adapters of one layer.

    While one of them is merged, the layer's own weight and bias are kept here, bit by bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.changes = nn.ModuleList()
        self.active = BASE  # for calls that choose none
        self.merged: str | None = None
        self.register_buffer("kept_weight", None, persistent=False)
        self.register_buffer("kept_bias", None, persistent=False)

    def get(self, name: str | None) -> Any:
        """The change of this name, or of the active adapter; None if it does not concern the layer."""
        name = self.active if name is None else name
        return self.changes[self.names.index(name)] if name in self.names else None


class AdaptedLayer(ActivatedLinear):
    """Put before the class of a linear layer that has adapters; its parameters keep their names."""

    adapters: LayerAdapters

    def forward(self, hidden: torch.Tensor, activation_name: str | None = None) -> torch.Tensor:
        """[..., in] -> [..., out], each token with its adapter."""
        own: torch.Tensor = super().forward(hidden)  # of the layer's class
        found = own
        # What is compiled or trained has one adapter, the active one.
        groups: Groups = ((None, None),) if torch.compiler.is_compiling() else _CHOSEN.get()
        for name, rows in groups:
            change = self.adapters.get(name)
            if change is None:
                continue
            if rows is None:
                found = change(hidden, found)
            else:
                part = change(hidden.index_select(-2, rows), own.index_select(-2, rows))
                found = found.index_copy(-2, rows, part)
        return found if activation_name is None else activation(activation_name)(found)


@cache
def _adapted_class(kind: Any) -> type[nn.Module]:
    return type(f"Adapted{kind.__name__}", (AdaptedLayer, kind), {})


def adapt(layer: nn.Module, name: str, change: nn.Module) -> None:
    """Give a linear layer an adapter, in place."""
    if not isinstance(layer, AdaptedLayer):
        layer.adapters = LayerAdapters()
        layer.__class__ = _adapted_class(type(layer))  # type: ignore[arg-type]  # classes are hashable
    adapters: LayerAdapters = layer.adapters  # type: ignore[assignment]
    adapters.names.append(name)
    adapters.changes.append(change.train(layer.training))


def without_adapters(layer: nn.Module) -> None:
    """Make an adapted layer compute as its own class again; what it has been given stays."""
    if isinstance(layer, AdaptedLayer):
        layer.__class__ = type(layer).__bases__[1]


def with_adapters(layer: nn.Module) -> None:
    """Undo :func:`without_adapters`."""
    if not isinstance(layer, AdaptedLayer):
        layer.__class__ = _adapted_class(type(layer))  # type: ignore[arg-type]  # classes are hashable


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of a model that have adapters, merged or not, by their names."""
    for name, layer in model.named_modules():
        if isinstance(layer._modules.get("adapters"), LayerAdapters):
            yield name, layer


def adapter_names(model: nn.Module) -> list[str]:
    """The names of a model's adapters, in the order in which they came."""
    found = (name for _, layer in adapted_layers(model) for name in layer.adapters.names)
    return list(dict.fromkeys(found))


def merged_adapter(model: nn.Module) -> str | None:
    """The name of the adapter that is merged into the weights."""
    return next((layer.adapters.merged for _, layer in adapted_layers(model) if layer.adapters.merged), None)


def check_adapter(model: nn.Module, name: str | None) -> None:
    """Refuse an adapter that a call cannot have.

    Raises:
        InputError: the model has none of this name, or one is merged into its weights.
    """
    if name is None:
        return
    merged, known = merged_adapter(model), adapter_names(model)
    if name not in (BASE, *known):
        raise InputError(
            f"There is no adapter {name!r:.80}. Known: {', '.join((BASE, *known))}. Load it: "
            "model.load_adapter(folder, name)."
        )
    if merged is not None and name != merged:
        raise InputError(f"The adapter {merged!r} is merged into the weights. Call model.unmerge_adapter() first.")


@contextmanager
def chosen(name: str | None) -> Iterator[None]:
    """Compute the calls of the body with an adapter, in this thread and task.

    Args:
        name: the adapter, which the model has; "base" for none, None for the active one.
    """
    token = _CHOSEN.set(((name, None),))
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def chosen_adapter() -> str | None:
    """The adapter of :func:`chosen`; None outside of it."""
    return _CHOSEN.get()[0][0]


@contextmanager
def adapters_of_tokens(names: Sequence[str | None], device: torch.device) -> Iterator[None]:
    """Compute the body with an adapter for each token, [..., T, width] in every layer that has adapters.

    Args:
        names: for each of the T tokens, the adapter as in :func:`chosen`.
        device: where the model is.
    """
    rows: dict[str | None, list[int]] = {}
    for place, name in enumerate(names):
        rows.setdefault(name, []).append(place)
    groups: Groups = tuple(
        (name, None if len(rows) == 1 else torch.tensor(places, device=device)) for name, places in rows.items()
    )
    token = _CHOSEN.set(groups)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def replaces(model: nn.Module, parameter: str) -> bool:
    """Whether the chosen adapter has a whole layer in the place of the one that a parameter belongs to."""
    layer = model.get_submodule(parameter.rpartition(".")[0])
    adapters = layer._modules.get("adapters")
    return isinstance(adapters, LayerAdapters) and isinstance(adapters.get(chosen_adapter()), Replaced)
