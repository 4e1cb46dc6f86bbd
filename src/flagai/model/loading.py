"""The weights of a model: from a checkpoint, all or nothing, or randomly initialized."""

import functools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from flagai.checkpoint.agreement import fingerprint
from flagai.checkpoint.fill import fill_model
from flagai.checkpoint.out_of_memory import memory_explained
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.report import LoadReport
from flagai.model.adapters import AdapterMixin
from flagai.model.config import OpenConfig
from flagai.model.device import Device, Dtype, read_device, read_dtype, usable_dtype
from flagai.model.layer.init import initialize
from flagai.model.meta_init import materialize
from flagai.model.opening import open_on_all_ranks
from flagai.model.quantization import how_quantized
from flagai.model.untrained import note_untrained
from flagai.parallel.dtensor import broadcast_from_first_rank, local
from flagai.parallel.plan import Plan, shard_dimension
from flagai.typed_json import Fields

logger = logging.getLogger(__name__)


class LoadMixin(AdapterMixin):
    """How a model gets its weights; :class:`flagai.model.base_model.BaseModel` says what the names mean."""

    plan: ClassVar[Plan]
    fresh: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]]

    def init_weights(self, only: list[str] | None = None) -> None:
        """Initialize weights randomly.

        Args:
            only: names of the parameters; default all.
        """
        for name in only if only is not None else [name for name, _ in self.named_parameters()]:
            owner, _, leaf = name.rpartition(".")
            initialize(self.get_submodule(owner), leaf, self.init_std(name))
            if self.sharding is not None:
                broadcast_from_first_rank(self.get_parameter(name))

    def init_std(self, name: str) -> float:
        """The standard deviation of the random values of a parameter."""
        return Fields(self.config, type(self.config).__name__).number("initializer_range", 0.02)

    def load_weights(self, checkpoint_path: str | Path, *, mmap: bool = True) -> LoadReport:
        """Load weights into this model, in place and strictly.

        Args:
            checkpoint_path: a weights file or folder in any known format.
            mmap: map the files while they are read; see :meth:`from_pretrain`.

        Returns:
            What was loaded, randomly initialized or not used.

        Raises:
            CheckpointError: the weights are damaged or unsafe, or do not fit.
        """
        dequantize = how_quantized(self) is None
        open_here = functools.partial(open_checkpoint, checkpoint_path, dequantize=dequantize, mmap=mmap)
        return self.load_checkpoint(open_on_all_ranks(self.sharding, open_here, fingerprint))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors under our names, as torch does, or under those of any file, as :meth:`load_weights` does.

        Args:
            state_dict: tensors by name, such as ``torch.load(path)["module"]`` of a file of the original FlagAI.
            strict: see :meth:`torch.nn.Module.load_state_dict`.
            assign: see there.

        Returns:
            Names that are missing or unexpected; of a file's names there are none.

        Raises:
            LoadError: the names are a file's, and something is missing, unknown, or of the wrong shape or dtype.
        """
        tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
        ours = len(tensors.keys() & super().state_dict().keys())  # a head may have one name in both
        if assign or not strict or 2 * ours >= len(tensors):
            return super().load_state_dict(state_dict, strict, assign)
        self.load_checkpoint(Checkpoint(Path("the state dict"), [tensors]))
        return super().load_state_dict({}, strict=False)._replace(missing_keys=[])

    def load_checkpoint(
        self, checkpoint: Checkpoint, *, device: Device = "cpu", dtype: Dtype | None = None
    ) -> LoadReport:
        """Fill this model from an opened checkpoint, strictly.

        Args:
            checkpoint: the checkpoint.
            device: for models from :meth:`on_meta`, the device of the parameters.
            dtype: for models from :meth:`on_meta`, their dtype; default the checkpoint's.

        Returns:
            What was loaded, randomly initialized or not used.

        Raises:
            LoadError: something is missing, unknown, or of the wrong shape or dtype; the model is as it was.
        """
        self.check_names(checkpoint)
        device, dtype = read_device(device), read_dtype(dtype)
        if next(self.parameters()).is_meta:
            if dtype is None and len(checkpoint.dtypes) > 1:
                logger.info("%s holds %s; loading as %s", checkpoint.path, checkpoint.dtypes, checkpoint.dtype)
            dtype = dtype or usable_dtype(device, None, checkpoint.dtype) or checkpoint.model_dtype()
            if any(parameter.dtype != dtype for parameter in self.parameters()):
                self.to(dtype)
        report = fill_model(
            self,
            self.names,
            checkpoint,
            shard_dimension=functools.partial(shard_dimension, self.plan),
            fresh=self.fresh,
            optional=self.optional,
            device=device,
            replicas=None if self.sharding is None else self.sharding.replicas,
        )
        self._materialize(report.newly_initialized, device)
        note_untrained(self, report.newly_initialized)
        if report.untied:
            if self.sharding is not None:
                self.sharding.check_untying(report.untied[0], str(checkpoint.path))
            self.config = self.config.replace(tie_word_embeddings=False)
        return report

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse weights whose names contradict the configuration; subclasses that can tell override it.

        Raises:
            ConfigError: they do.
        """

    def initialized_on(self, device: torch.device) -> Self:
        """Initialize all weights of a model from :meth:`BaseModel.on_meta` randomly.

        Args:
            device: where the parameters get memory.
        """
        if isinstance(self.config, OpenConfig):  # its constructor has given values
            return self.to(device)
        self._materialize([name for name, _ in self.named_parameters(remove_duplicate=False)], device)
        return self

    def _materialize(self, names: list[str], device: torch.device) -> None:
        """Initialize parameters, which get memory if they are on the meta device; tied ones stay tied."""
        if not names:
            return
        unique = {id(parameter): parameter for parameter in map(self.get_parameter, names)}
        needed = sum(local(parameter).nbytes for parameter in unique.values() if parameter.is_meta)
        with memory_explained(type(self).__name__, needed, device, lambda: ""):
            materialize(self, names, device)
        self.init_weights([name for name, _ in self.named_parameters() if name in names])
