"""Writing a model: configuration and weights, whole or not at all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.checkpoint.atomic import replace_file, replace_folder
from flagai.checkpoint.names import LAYOUTS, NATIVE, NameMap
from flagai.checkpoint.save import (
    WEIGHT_FILES,
    Build,
    SavePlan,
    build,
    plan_tensors,
    save_distributed,
    write_file,
    write_shards,
)
from flagai.checks import check_path
from flagai.errors import InputError
from flagai.hub.names import MANIFEST
from flagai.model.layer.adapted import adapted_layers
from flagai.model.quantization import KEY, how_quantized
from flagai.resolve import CONFIG_FILE


class SaveMixin(nn.Module):
    """What a model needs to write itself; :class:`flagai.model.base_model.BaseModel` says what the names mean."""

    names: NameMap  # of the class, or of a model whose sizes its rows depend on
    prefixes: ClassVar[Mapping[str, str]]
    architecture: ClassVar[str | None]
    config: Any
    sharding: Any
    own_class: type

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        max_shard_size: int | str = "5GB",
        layout: str = "flagai",
        state_dict: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write configuration and weights, all at once: a crash leaves the old folder or the new one.

        Other files of the folder stay. With a mesh, all processes call it and the first one writes. BERT, GPT-2 and
        T5 in the layout "huggingface" load into transformers with equal outputs.

        Args:
            folder: the folder to create or update.
            max_shard_size: the largest size of a weights file, as bytes or as in "500MB".
            layout: names and key order of "flagai" or "huggingface".
            state_dict: the values to write, where they were gathered from processes or merged with adapters; default
                those of the model.

        Raises:
            InputError: the layout or the size is unknown.
        """
        path = check_path("folder", folder)
        plan = self.save_plan(layout, state_dict)

        def write(build: Build) -> None:
            with replace_folder(path, drop=(*WEIGHT_FILES, MANIFEST)) as temporary:
                self._write_into(temporary, plan, max_shard_size, layout, build)

        self._write(plan, write)

    def write_into(self, folder: Path, *, max_shard_size: int | str = "5GB", layout: str = "flagai") -> None:
        """Write configuration and weights into a folder that no process reads yet, such as a temporary one.

        Args:
            folder: the folder.
            max_shard_size: the largest size of a weights file, as bytes or as in "500MB".
            layout: names and key order of "flagai" or "huggingface".

        Raises:
            InputError: the layout or the size is unknown.
        """
        self._write_into(folder, self.save_plan(layout), max_shard_size, layout, build)

    def _write_into(self, folder: Path, plan: SavePlan, max_shard_size: int | str, layout: str, build: Build) -> None:
        write_shards(folder, plan, max_shard_size, build)
        self._write_config(folder / CONFIG_FILE, layout)

    def save_weights(self, checkpoint_path: str | Path, *, layout: str = "flagai") -> None:
        """Write the weights into one file, atomically.

        Args:
            checkpoint_path: the file. The ending ``.bin`` or ``.pt`` gives torch's format, which the original
                FlagAI reads; any other one safetensors.
            layout: "flagai" or "huggingface".

        Raises:
            InputError: the layout is unknown, or the path is a folder.
        """
        path = check_path("checkpoint_path", checkpoint_path)
        if os.path.isdir(path):  # also if no file can have this name
            raise InputError(f"{path} is a folder. Name a file in it, or use save_pretrained({str(path)!r}).")
        plan = self.save_plan(layout)

        def write(build: Build) -> None:
            with replace_file(path) as temporary:
                write_file(temporary, plan, pickled=path.suffix in (".bin", ".pt"), build=build)

        self._write(plan, write)

    def save_config(self, config_path: str | Path) -> None:
        """Write the configuration, atomically.

        Args:
            config_path: the file, or the folder to write ``config.json`` into.
        """
        path = check_path("config_path", config_path)
        file = path / CONFIG_FILE if os.path.isdir(path) else path
        self._write({}, lambda _: self._write_config(file, "flagai"))

    def _write(self, plan: SavePlan, write: Callable[[Build], None]) -> None:
        """Write files; of several processes that share the model or hold replicas, the first one does."""
        if self.sharding is None:
            write(build)
            return
        save_distributed(plan, write)

    def _write_config(self, path: Path, layout: str) -> None:
        name = self.architecture if layout == "huggingface" and self.architecture else self.own_class.__name__
        how = how_quantized(self)
        said = {KEY: how} if how is not None or KEY in self.config else {}
        self.config.to_json(path, layout, architectures=[name], **said)

    def save_plan(self, layout: str, state_dict: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """The tensors of a file by their names there, and what each is made of.

        Args:
            layout: of the names and shapes, one of :data:`LAYOUTS`.
            state_dict: tensors to write in the place of the model's own.

        Raises:
            InputError: the model cannot be written in this layout.
        """
        if layout not in LAYOUTS:
            raise InputError(f"There is no layout {layout!r}. Known: {', '.join(LAYOUTS)}.")
        if layout != "flagai" and how_quantized(self) is not None:
            raise InputError(f"Quantized weights are written in the layout 'flagai' only, not {layout!r}.")
        if how_quantized(self) is not None:
            layout = NATIVE  # others join and transpose matrices, which packed ones cannot be
        parameters = dict(self.named_parameters(remove_duplicate=False))
        # FlagAI's loaders want tied tensors written out; transformers wants them once.
        left_out = parameters.keys() - dict(self.named_parameters()) if layout == "huggingface" else set()
        left_out |= dict(self.named_buffers()).keys()
        adapters = tuple(f"{name}.adapters." for name, _ in adapted_layers(self))  # which have folders of their own
        values = parameters if state_dict is None else state_dict
        written = {name: value for name, value in values.items() if name not in left_out}
        written = {name: value for name, value in written.items() if not name.startswith(adapters)}
        return plan_tensors(written, self.names, layout, self.prefixes.get(layout, ""))
