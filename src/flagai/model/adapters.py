"""The adapters of a model: loaded, chosen, merged, added for training and saved."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from flagai.checkpoint.names import LAYOUTS
from flagai.checks import check_integer, check_number, check_path
from flagai.errors import InputError
from flagai.model.adapter_folder import AdapterFolders, check_adapters, read_adapter
from flagai.model.adapter_saving import write_adapter
from flagai.model.layer.adapted import (
    BASE,
    LowRank,
    Replaced,
    adapt,
    adapted_layers,
    adapter_names,
    check_adapter,
    chosen,
    merged_adapter,
    with_adapters,
    without_adapters,
)
from flagai.model.layer.linear import compute_dtype
from flagai.model.quantization import how_quantized
from flagai.model.saving import SaveMixin

# The projections that adapters are added to, as the paper does; every family has them under these names.
_TARGETS = ("q", "v")


class AdapterMixin(SaveMixin):
    """What a model needs to work with adapters of PEFT; the layers compute them (``model/layer/adapted.py``)."""

    fresh: ClassVar[tuple[str, ...]]

    @property
    def adapter_names(self) -> list[str]:
        """The names of the adapters that are loaded."""
        return adapter_names(self)

    @torch.no_grad()
    def load_adapter(self, folder: str | Path, name: str | None = None) -> str:
        """Load a LoRA adapter beside the weights, which stay as they are, quantized or not.

        A call chooses an adapter by :meth:`use_adapter` or by ``adapter=`` of the Predictor; :meth:`set_adapter` says
        what other calls compute with.

        Args:
            folder: a folder of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``. Layers may
                have the names of transformers, of the original or ours.
            name: its name; default that of the folder.

        Returns:
            The name.

        Raises:
            InputError: the name is taken, the model is spread over processes, or an adapter is merged.
            ModelNotFoundError: a file is absent.
            CheckpointError: the adapter is of another kind, or does not fit; the model is as it was.

        Example:
            >>> model.load_adapter("adapters/law", "law")
            >>> with model.use_adapter("law"):
            ...     output = model(input_ids)
        """
        name = check_path("adapter", folder).resolve().name if name is None else name
        self._check_new(name)
        changes = read_adapter(self, folder)
        for layer, change in changes.items():
            owner = self.get_submodule(layer)
            place = next(owner.parameters()).device
            adapt(owner, name, change.to(device=place, dtype=compute_dtype(owner)))
        return name

    def load_adapters(self, folders: AdapterFolders) -> None:
        """Load one adapter, which becomes the active one, or several, of which each call chooses one.

        Args:
            folders: a folder, or folders by name.

        Raises:
            FlagAIError: see :meth:`load_adapter`.
        """
        names = [self.load_adapter(folder, name) for name, folder in check_adapters(folders).items()]
        if not isinstance(folders, Mapping):
            self.set_adapter(names[0])

    def _check_new(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(f"The adapter's name is {name!r:.80}; expected a text such as 'law'.")
        if name == BASE or name in self.adapter_names:
            what = "stands for the model without an adapter" if name == BASE else "is loaded already"
            raise InputError(f"An adapter cannot be called {name!r:.80}: it {what}. Give it another name.")
        if self.sharding is not None:
            raise InputError(
                "Models spread over processes (mesh=, fsdp=) take no adapters. Load the model without them."
            )
        if merged_adapter(self) is not None:
            raise InputError(f"{merged_adapter(self)!r} is merged into the weights. Call unmerge_adapter() first.")

    def set_adapter(self, name: str) -> None:
        """Say which adapter computes calls that choose none.

        Args:
            name: the adapter; "base" for none.

        Raises:
            InputError: there is none of this name.
        """
        check_adapter(self, name)
        for _, layer in adapted_layers(self):
            layer.adapters.active = name

    def use_adapter(self, name: str | None) -> AbstractContextManager[None]:
        """Compute all calls of the body with an adapter, those of the Predictor too, in this thread and task.

        Args:
            name: the adapter; "base" for none, None for the active one.

        Returns:
            A context manager.

        Raises:
            InputError: there is none of this name, or one is merged.
        """
        check_adapter(self, name)
        return chosen(name)

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter; without any, layers compute as before the first one.

        Args:
            name: the adapter.

        Raises:
            InputError: there is none of this name, or one is merged.
        """
        self._named(name)
        for _, layer in list(adapted_layers(self)):
            own = layer.adapters
            if name in own.names:
                del own.changes[own.names.index(name)]
                own.names.remove(name)
            own.active = BASE if own.active == name else own.active
            if not own.names:
                without_adapters(layer)
                del layer.adapters

    def _named(self, name: str | None) -> str:
        """The adapter of this name, or the only one.

        Raises:
            InputError: there is none, or several and none is named, or one is merged.
        """
        known = self.adapter_names
        if name is None and len(known) != 1:
            raise InputError(f"Name one of the adapters: {', '.join(known) or 'none is loaded'}.")
        name = known[0] if name is None else name
        if name not in known:
            raise InputError(f"There is no adapter {name!r:.80}. Known: {', '.join(known) or 'none'}.")
        if merged_adapter(self) is not None:
            raise InputError(f"{merged_adapter(self)!r} is merged into the weights. Call unmerge_adapter() first.")
        return name

    @torch.no_grad()
    def merge_adapter(self, name: str | None = None, *, unload: bool = False) -> None:
        """Put an adapter into the weights: the model is as fast as without one, and saves itself with it.

        Args:
            name: the adapter; default the only one.
            unload: forget all adapters, and the weights of before, which take memory until :meth:`unmerge_adapter`.

        Raises:
            InputError: there is none of this name, one is merged already, or the weights are quantized.
        """
        name = self._named(name)
        if how_quantized(self) is not None:
            raise InputError("An adapter is merged into whole weights: load the model without quantize=.")
        for _, layer in list(adapted_layers(self)):
            own, change = layer.adapters, layer.adapters.get(name)
            if change is not None:
                own.kept_weight, own.kept_bias = layer.weight.data, None if layer.bias is None else layer.bias.data
                weight, bias = change.merged(own.kept_weight, own.kept_bias)
                layer.weight.data = weight
                if bias is not None:
                    layer.bias.data = bias.clone()
            own.merged = name
            without_adapters(layer)
            if unload:
                del layer.adapters

    @torch.no_grad()
    def unmerge_adapter(self) -> None:
        """Restore the weights as they were before :meth:`merge_adapter`, bit by bit.

        Raises:
            InputError: none is merged.
        """
        if merged_adapter(self) is None:
            raise InputError("No adapter is merged. Merge one by merge_adapter(name).")
        for _, layer in list(adapted_layers(self)):
            own = layer.adapters
            if own.kept_weight is not None:
                layer.weight.data = own.kept_weight
                if own.kept_bias is not None:
                    layer.bias.data = own.kept_bias
            own.kept_weight = own.kept_bias = own.merged = None
            with_adapters(layer)

    def add_adapter(
        self,
        name: str,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] | Callable[[str], bool] = _TARGETS,
        *,
        heads: bool = True,
    ) -> None:
        """Add a new adapter to train: only it and heads have gradients then.

        Args:
            name: its name; it becomes the active one.
            rank: of its matrices.
            alpha: their scale is ``alpha / rank``; default twice the rank.
            dropout: probability of dropping a feature of a layer's input.
            targets: the last names of the layers, such as ("q", "v", "down"), or a function of the whole name.
            heads: whether heads that a backbone does not have are trained, too.

        Raises:
            InputError: no layer has such a name, the weights are quantized, or see :meth:`load_adapter`.
        """
        self._check_new(name)
        check_integer("rank", rank)
        scale = check_number("alpha", 2 * rank if alpha is None else alpha, 0, above=True) / rank
        check_number("dropout", dropout, 0, 1)
        if how_quantized(self) is not None:
            raise InputError("Adapters are trained on whole weights: load the model without quantize=.")
        wanted = targets if callable(targets) else lambda name: name.rpartition(".")[2] in targets
        layers = [
            (each, layer) for each, layer in self.named_modules() if isinstance(layer, nn.Linear) and wanted(each)
        ]
        if not layers:
            raise InputError(f"A {type(self).__name__} has no linear layers called {targets!r:.80}.")
        for each, parameter in self.named_parameters():
            new = any(fnmatchcase(each, pattern) for pattern in self.fresh) and "prompt" not in each
            parameter.requires_grad_(new and heads)
        for _, layer in layers:
            a = layer.weight.new_empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=5**0.5)  # as PEFT begins
            b = layer.weight.new_zeros(layer.out_features, rank)
            adapt(layer, name, LowRank(a, b, scale, dropout, trainable=True))
        self.set_adapter(name)

    def save_adapter(
        self, folder: str | Path, name: str | None = None, *, layout: str = "huggingface", base: str = ""
    ) -> None:
        """Write an adapter as a folder that PEFT reads, all files at once; new heads are in it (``modules_to_save``).

        Args:
            folder: the folder to create or update.
            name: the adapter; default the only one.
            layout: whose names the layers get: "huggingface", so that PEFT loads it beside transformers' model, or
                "flagai".
            base: the name or the folder of the base model, for readers of ``adapter_config.json``.

        Raises:
            InputError: there is none of this name, or it trained something that such a folder cannot hold.
        """
        if layout not in LAYOUTS:
            raise InputError(f"There is no layout {layout!r}. Known: {', '.join(LAYOUTS)}.")
        name = self._named(name)
        changes = {each: layer.adapters.get(name) for each, layer in adapted_layers(self)}
        changes = {each: change for each, change in changes.items() if change is not None}
        trained = any(each.requires_grad for change in changes.values() for each in change.parameters())
        heads, odd = self.trained_heads() if trained else ({}, [])
        if odd:
            raise InputError(f"An adapter's folder cannot hold {', '.join(odd[:3])}: save the merged model instead.")
        write_adapter(self, changes | heads, folder, layout=layout, base=base)

    def trained_heads(self) -> tuple[dict[str, Replaced], list[str]]:
        """What is trained beside an adapter: linear layers, and parameters that no adapter's folder can hold."""
        adapters = tuple(f"{name}.adapters." for name, _ in adapted_layers(self))
        names = [name for name, each in self.named_parameters() if each.requires_grad and not name.startswith(adapters)]
        owners = {name: self.get_submodule(name.rpartition(".")[0]) for name in names}
        heads = {
            name.rpartition(".")[0]: Replaced(
                layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
            )
            for name, layer in owners.items()
            if isinstance(layer, nn.Linear)
        }
        return heads, [name for name, layer in owners.items() if not isinstance(layer, nn.Linear)]
