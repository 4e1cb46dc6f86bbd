"""Load a model from its folder: configuration and weights of one version, the same on all ranks."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flagai.checkpoint.agreement import fingerprint
from flagai.checkpoint.files import CheckpointFiles
from flagai.checkpoint.published_quantization import BITS as PUBLISHED_BITS
from flagai.checkpoint.published_quantization import as_int8
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.report import phase
from flagai.checkpoint.steady import read_steadily
from flagai.checks import check_flag
from flagai.model.adapter_folder import AdapterFolders, check_adapters
from flagai.model.config import ModelConfig, OpenConfig
from flagai.model.device import Device, Dtype, read_device, read_dtype, read_sharding, usable_dtype
from flagai.model.generation_defaults import tell_generation_defaults
from flagai.model.meta_init import gc_paused
from flagai.model.quantization import KEY, Quantization, quantize
from flagai.resolve import CONFIG_FILE, ResolvedModel, resolve
from flagai.typed_json import read_json

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.parallel.fsdp import FullyShard
    from flagai.parallel.sharding import Sharding

T = TypeVar("T")
# The class of a model and settings that its configuration lacks, by what the folder holds.
Choose = Callable[["FolderReader"], tuple[Any, Mapping[str, Any]]]


@dataclass(frozen=True)
class OpenedFolder:
    """A model's class, configuration and quantization, and its weights, of which nothing is read yet."""

    model_class: Any
    config: Any
    quantization: Quantization
    checkpoint: Checkpoint

    def load_weights_into(self, model: Any, device: torch.device, dtype: torch.dtype | None) -> None:
        """Load the weights into a model on the meta device, and quantize it layer by layer where that is asked.

        Args:
            model: the model.
            device: where the model is placed.
            dtype: the parameters' dtype; default the checkpoint's.
        """
        stored, wanted = self.quantization.stored, self.quantization.wanted
        if stored is not None:
            quantize(model, stored)
        if wanted is None:
            model.load_checkpoint(self.checkpoint, device=device, dtype=dtype)
            return
        storage = self.checkpoint.dtype.itemsize < 2  # float8
        model.load_checkpoint(self.checkpoint, dtype=dtype if storage else None)  # else views: nothing is read yet
        quantize(model, wanted, device=device)
        model.to(device=device, dtype=dtype)


@dataclass(frozen=True)
class FolderReader:
    """One version of a model's folder; each file is read once, when it is asked for."""

    found: ResolvedModel  # the folder
    overrides: Mapping[str, Any]  # settings that replace those of config.json
    mmap: bool  # map the weights' files
    files: CheckpointFiles | None  # the weights' files; None to look for them

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The content of config.json, or the catalog's configuration."""
        return read_json(self.found.folder / CONFIG_FILE) if self.found.config is None else self.found.config

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights' names and shapes."""
        settings = {**self.content, **self.overrides}
        stored, bits = settings.get(KEY), settings.get("quantization_bit")
        published = bits if stored is None and bits in PUBLISHED_BITS else None
        plain = stored is None and published is None
        found = open_checkpoint(self.found.folder, dequantize=plain, mmap=self.mmap, files=self.files)
        return found if published is None else as_int8(found, published)

    def config(self, model_class: Any, settings: Mapping[str, Any]) -> Any:
        """The configuration, as a class reads it.

        Args:
            model_class: the class.
            settings: further settings, besides the overrides.
        """
        kind: type[ModelConfig] = model_class.config_class
        overrides = {**settings, **self.overrides}
        if self.found.config is not None:
            return kind.from_dict(self.content, source="the catalog", **overrides)
        values = kind.beside(self.content, self.found.folder, overrides)
        return kind.from_dict(values, source=str(self.found.folder / CONFIG_FILE), **overrides)

    def described(self, choose: Choose, quantize: str | None, *, spread: bool) -> tuple[Any, Any, Quantization]:
        """The class, the configuration, and how the weights are and will be quantized."""
        model_class, settings = choose(self)
        config = self.config(model_class, settings)
        return model_class, config, Quantization.read(config, quantize, spread=spread)


def load_model(
    choose: Choose,
    download_path: str | Path | None = None,
    model_name: str = "",
    only_download_config: bool = False,
    device: Device = "cpu",
    dtype: Dtype | None = None,
    mesh: "DeviceMesh | str | None" = None,
    fsdp: "FullyShard | bool" = False,
    quantize: str | None = None,
    mmap: bool = True,
    revision: str | None = None,
    adapter: AdapterFolders | None = None,
    **overrides: Any,
) -> Any:
    """Load a model as :meth:`flagai.model.base_model.BaseModel.from_pretrain` does, of a class that the folder decides.

    The arguments are those of ``from_pretrain``, but for ``choose``, which is called once the folder is open.
    """
    check_flag("mmap", mmap)
    check_flag("only_download_config", only_download_config)
    device, dtype = read_device(device), read_dtype(dtype)
    if adapter is not None:
        check_adapters(adapter)
    sharding = read_sharding(mesh, fsdp, device)
    device = device if sharding is None else sharding.device
    usable_dtype(device, dtype)
    found = resolve(download_path, model_name, weights=not only_download_config, revision=revision)
    tell_generation_defaults(found.folder)

    def read(files: CheckpointFiles | None) -> FolderReader:
        return FolderReader(found, overrides, mmap, files)

    def opened(files: CheckpointFiles) -> OpenedFolder:
        reader = read(files)
        return OpenedFolder(*reader.described(choose, quantize, spread=sharding is not None), reader.checkpoint)

    if only_download_config:
        kind, config, quantization = read(None).described(choose, quantize, spread=sharding is not None)
        model = quantization.apply(kind.on_meta(config, sharding=sharding).initialized_on(device).to(dtype=dtype))
        return _adapted(model, adapter)
    with gc_paused():
        with phase("open"):
            folder = open_on_all_ranks(
                sharding,
                lambda: read_steadily(found.folder, opened, found.files),
                lambda each: f"{each.config!r} {fingerprint(each.checkpoint)}",
            )
        config, checkpoint = folder.config, folder.checkpoint
        dtype = dtype or usable_dtype(device, None, checkpoint.dtype)
        whole_files = device.type == "cpu" and sharding is None  # a rank needs its windows only
        readers = checkpoint.readers_ahead(device, 1 if sharding is None else sharding.mesh.size())
        with readers, checkpoint.mapped_ahead() if whole_files else nullcontext():
            model = folder.model_class.on_meta(config, dtype or checkpoint.model_dtype(), sharding)
            folder.load_weights_into(model, device, dtype)
        model = model.to(device).eval() if isinstance(config, OpenConfig) else model.eval()
    return _adapted(model, adapter)


def _adapted(model: Any, adapter: AdapterFolders | None) -> Any:
    """The model, with its adapters."""
    if adapter is not None:
        model.load_adapters(adapter)
    return model


def open_on_all_ranks(sharding: "Sharding | None", open_here: Callable[[], T], mark: Callable[[T], str]) -> T:
    """Open a model on every rank, and see that it is the same one.

    Args:
        sharding: how the model is spread over processes; None if it is not.
        open_here: opens what this rank finds.
        mark: what must be equal.

    Raises:
        CheckpointError: the ranks find different models, or one of them finds none.
    """
    if sharding is None:
        return open_here()
    from flagai.checkpoint.agreement import open_consistently

    return open_consistently(open_here, mark, sharding.groups, sharding.device)
