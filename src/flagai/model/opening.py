"""Open a model's folder: configuration and weights of one version, the same on all ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flagai.checkpoint.agreement import fingerprint
from flagai.checkpoint.files import CheckpointFiles
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.steady import read_steadily
from flagai.model.config import ModelConfig
from flagai.model.quantization import Quantization
from flagai.model.resolve import CONFIG_FILE, ResolvedModel

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from flagai.parallel.sharding import Sharding

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """A model's configuration, how it is quantized, and its weights, of which nothing is read yet."""

    config: Any
    bits: Quantization
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Opening:
    """What is opened, and how.

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

    def open(self) -> Opened:
        """Open configuration and weights; again, if the folder is exchanged meanwhile or ranks found different ones.

        Raises:
            ConfigError: the configuration is broken or of another family, or an override is unknown.
            CheckpointError: the weights are absent, damaged or unsafe, or change without end.
        """
        return alike(
            self.sharding,
            lambda: read_steadily(self.found.folder, self._read, self.found.files),
            lambda opened: f"{opened.config!r} {fingerprint(opened.checkpoint)}",
        )

    def _read(self, files: CheckpointFiles) -> Opened:
        config, bits = self.read_config()
        dequantize = bits.stored is None
        return Opened(
            config, bits, open_checkpoint(self.found.folder, dequantize=dequantize, mmap=self.mmap, files=files)
        )


def alike(sharding: "Sharding | None", open_one: Callable[[], T], mark: Callable[[T], str]) -> T:
    """Open a model on every rank, and see that it is the same one.

    Args:
        sharding: how the model is spread over processes; None if it is not.
        open_one: opens what this rank finds.
        mark: what must be equal.

    Raises:
        CheckpointError: the ranks find different models, or one of them finds none.
    """
    if sharding is None:
        return open_one()
    from flagai.checkpoint.agreement import open_consistently

    return open_consistently(open_one, mark, sharding.groups, sharding.device)
