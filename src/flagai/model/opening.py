"""Open a model's folder: configuration and weights of one version, the same on all ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from flagai.checkpoint.agreement import fingerprint
from flagai.checkpoint.files import CheckpointFiles
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.steady import read_steadily
from flagai.model.config import ModelConfig
from flagai.model.quantization import Quantization, quantize
from flagai.model.resolve import CONFIG_FILE, ResolvedModel

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from flagai.parallel.sharding import Sharding

T = TypeVar("T")


@dataclass(frozen=True)
class OpenedFolder:
    """A model's configuration, how it is quantized, and its weights, of which nothing is read yet."""

    config: Any
    quantization: Quantization
    checkpoint: Checkpoint

    def load_weights_into(self, model: Any, device: torch.device, dtype: torch.dtype | None) -> None:
        """Load the weights into a model on the meta device, and quantize it layer by layer where that is asked.

        Args:
            model: the model.
            device: where the model shall be.
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
class ModelFolder:
    """The folder of a model, and how it shall be opened.

    Args:
        found: the folder.
        config_class: the family's configuration.
        overrides: settings that replace those of config.json.
        quantize: how the user wants the weights, if not as they are.
        sharding: how the model is spread over processes.
        mmap: map the weights' files.
    """

    found: ResolvedModel
    config_class: type[ModelConfig]
    overrides: Mapping[str, Any]
    quantize: str | None
    sharding: "Sharding | None"
    mmap: bool = True

    def read_config(self) -> tuple[Any, Quantization]:
        """The configuration, and how the weights are and shall be quantized."""
        if self.found.config is None:
            config = self.config_class.from_json(self.found.folder / CONFIG_FILE, **self.overrides)
        else:
            config = self.config_class.from_dict(self.found.config, source="the catalog", **self.overrides)
        return config, Quantization.read(config, self.quantize, spread=self.sharding is not None)

    def open(self) -> OpenedFolder:
        """Open configuration and weights; again, if the folder is exchanged meanwhile or ranks found different ones.

        Raises:
            ConfigError: the configuration is broken or of another family, or an override is unknown.
            CheckpointError: the weights are absent, damaged or unsafe, or change without end.
        """
        return open_on_all_ranks(
            self.sharding,
            lambda: read_steadily(self.found.folder, self._read, self.found.files),
            lambda opened: f"{opened.config!r} {fingerprint(opened.checkpoint)}",
        )

    def _read(self, files: CheckpointFiles) -> OpenedFolder:
        config, quantization = self.read_config()
        dequantize = quantization.stored is None
        checkpoint = open_checkpoint(self.found.folder, dequantize=dequantize, mmap=self.mmap, files=files)
        return OpenedFolder(config, quantization, checkpoint)


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
