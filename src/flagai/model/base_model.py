"""What all models share: building from a configuration, loading, saving, and the manners of ``forward``."""

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from flagai.checkpoint.agreement import fingerprint
from flagai.checkpoint.fill import fill
from flagai.checkpoint.names import NameMap
from flagai.checkpoint.out_of_memory import memory_explained
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.report import LoadReport, phase
from flagai.checks import check_flag
from flagai.errors import ConfigError
from flagai.model.block.stack import BlockStack
from flagai.model.config import ModelConfig, OpenConfig
from flagai.model.device import Device, Dtype, read_device, read_dtype, read_sharding
from flagai.model.generation_defaults import tell_generation_defaults
from flagai.model.inputs import warn_of_near_miss
from flagai.model.layer.init import initialize
from flagai.model.meta_init import gc_paused, init_on_meta, materialize
from flagai.model.opening import Opening, alike
from flagai.model.quantization import how_quantized
from flagai.model.resolve import CONFIG_FILE, resolve
from flagai.model.saving import SaveMixin
from flagai.model.untrained import note_untrained
from flagai.parallel.dtensor import broadcast_from_first_rank, local
from flagai.parallel.plan import Plan, shard_dimension
from flagai.typed_json import Fields

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.parallel.fsdp import FullyShard
    from flagai.parallel.sharding import Sharding

logger = logging.getLogger(__name__)


class BaseModel(SaveMixin):
    """Base of all models.

    Subclasses say in class variables what is particular to them: ``config_class``; ``names`` and ``plan``, the
    family's tables; ``fresh``, patterns of parameters that a pretrained backbone does not have; ``optional``,
    modules that the model does without if a checkpoint has none; ``prefixes``, what each written layout puts
    before the backbone's names; ``architecture``, the name of the same model in transformers; ``needs_classes``,
    whether its head needs ``class_num``.

    A class without ``config_class``, as written for FlagAI, takes any config.json. Its layers have the initial values
    that its constructor gives them, and settings that are passed reach the constructor too, if it takes them.

    Args:
        config: the configuration, or its content.
        **redundant: ignored, as in the original.
    """

    config_class: ClassVar[type[ModelConfig]] = OpenConfig
    own_class: "type[BaseModel]"
    names: ClassVar[NameMap] = NameMap()
    plan: ClassVar[Plan] = {}
    fresh: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    prefixes: ClassVar[Mapping[str, str]] = {}
    architecture: ClassVar[str | None] = None
    needs_classes: ClassVar[bool] = False
    # For transformers' Trainer: our losses are means, which it divides when it accumulates gradients.
    accepts_loss_kwargs: ClassVar[bool] = False

    def __init__(self, config: ModelConfig | Mapping[str, Any], **redundant: Any) -> None:
        super().__init__()
        self.config: Any = config if isinstance(config, ModelConfig) else self.config_class.from_dict(config)
        self.sharding: Sharding | None = None
        self.own_class = type(self)  # FSDP replaces the class

    @classmethod
    def init_from_json(cls, config_file: str | Path = CONFIG_FILE, **overrides: Any) -> Self:
        """Build a model with newly drawn weights.

        Args:
            config_file: a config.json with FlagAI's or Hugging Face's keys.
            **overrides: settings that replace those of the file, such as ``checkpoint_activations=True``.

        Raises:
            ConfigError: the file is absent, broken or of another family, or an override is unknown.
        """
        return cls._spread(cls.config_class.from_json(config_file, **overrides), None).initialized_on(
            torch.device("cpu")
        )

    @classmethod
    def _spread(cls, config: ModelConfig, sharding: "Sharding | None", dtype: torch.dtype | None = None) -> Self:
        """A model on the meta device, sharded over processes; casting it there costs least."""
        with phase("meta"):
            model = cls.on_meta(config, dtype)
        if sharding is not None:
            with phase("shard"):
                sharding.apply(model, cls.plan, model.blocks_to_shard())
            model.sharding = sharding
        return model

    def blocks_to_shard(self) -> Iterator[nn.Module]:
        """The modules that FSDP gathers one at a time."""
        return (block for stack in self.modules() if isinstance(stack, BlockStack) for block in stack)

    def initialized_on(self, device: torch.device) -> Self:
        """This model with randomly initialized weights; those of an open configuration are initialized already."""
        if isinstance(self.config, OpenConfig):
            return self.to(device)
        self._materialise([name for name, _ in self.named_parameters(remove_duplicate=False)], device)
        return self

    @classmethod
    def on_meta(cls, config: ModelConfig, dtype: torch.dtype | None = None) -> Self:
        """Build a model on the meta device: names and shapes only, to be filled by :meth:`load_checkpoint`.

        Args:
            config: the configuration.
            dtype: the type of its numbers; default torch's.
        """
        if isinstance(config, OpenConfig):
            return cls(config, **config.arguments_of(cls.__init__)).to(dtype)
        try:
            with init_on_meta(dtype):
                return cls(config)
        except (RuntimeError, OverflowError, MemoryError, ArithmeticError) as error:
            raise ConfigError(
                f"{cls.__name__} cannot be built as its configuration says ({type(error).__name__}: {error!s:.200}). "
                "Compare the sizes in config.json with those of the model that it should be."
            ) from error

    def init_weights(self, only: list[str] | None = None) -> None:
        """Randomly initialize weights.

        Args:
            only: names of the parameters; default all.
        """
        for name in only if only is not None else [name for name, _ in self.named_parameters()]:
            owner, _, leaf = name.rpartition(".")
            initialize(self.get_submodule(owner), leaf, self.init_std(name))
            if self.sharding is not None:
                broadcast_from_first_rank(self.get_parameter(name))

    def init_std(self, name: str) -> float:
        """The standard deviation with which a parameter is initialized."""
        return Fields(self.config, type(self.config).__name__).number("initializer_range", 0.02)

    @classmethod
    def from_pretrain(
        cls,
        download_path: str | Path | None = None,
        model_name: str = "",
        only_download_config: bool = False,
        device: Device = "cpu",
        dtype: Dtype | None = None,
        mesh: "DeviceMesh | str | None" = None,
        fsdp: "FullyShard | bool" = False,
        quantize: str | None = None,
        mmap: bool = True,
        **config_overrides: Any,
    ) -> Self:
        """Load the model in ``download_path/model_name``, exactly or not at all; fetch it first if it is not there.

        The folder holds ``config.json`` and weights in any format of :mod:`flagai.checkpoint.files`. On a CPU,
        weights in their own type are used where they lie in the page cache: nothing is copied, and processes
        share them.

        Args:
            download_path: the folder of models; default ``FLAGAI_HOME``, or else ``./checkpoints``.
            model_name: the model's folder in it, or its name in the catalog, in any case.
            only_download_config: read only the configuration and draw new weights.
            device: where the model shall be.
            dtype: the parameters' type, such as ``torch.float16`` or "float16"; default the type that most of the
                checkpoint has.
            mesh: spread the model over processes: a mesh with the dimensions ``tp`` (they share the model) and ``dp``
                (replicas), or "auto" (see :mod:`flagai.parallel.world`). Each process reads its part only.
            fsdp: shard over ``dp`` instead of keeping replicas.
            quantize: "int8" or "int4" keeps the weights of the blocks in so many bits, "int8-all" and "int4-all" also
                the table of tokens in eight (:mod:`flagai.model.quantization`). A folder saved so needs no option.
            mmap: map the files of weights. False reads them into this process' memory at once: then they may be
                rewritten in place, which would end a process that maps them (SIGBUS).
            **config_overrides: settings that replace those of config.json, such as ``class_num=3``.

        Returns:
            The model in evaluation mode.

        Raises:
            ModelNotFoundError: there is no such folder, and the catalog has no such name; the message has near ones.
            HubError: the model is not here and cannot be fetched; the message has what each source said.
            ConfigError: the configuration is broken or of another family, or an override is unknown.
            CheckpointError: the weights are damaged or unsafe, or do not fit; nothing was loaded then.
            InputError: there is no such device, type or way to quantize, or they do not go together.
        """
        check_flag("mmap", mmap)
        check_flag("only_download_config", only_download_config)
        device, dtype = read_device(device), read_dtype(dtype)
        sharding = read_sharding(mesh, fsdp, device)
        device = device if sharding is None else sharding.device
        found = resolve(download_path, model_name, weights=not only_download_config)
        opening = Opening(found, cls.config_class, config_overrides, quantize, sharding, mmap)
        tell_generation_defaults(found.folder)
        if only_download_config:
            config, bits = opening.read_config()
            return bits.apply(cls._spread(config, sharding).initialized_on(device).to(dtype=dtype))
        with gc_paused():
            with phase("open"):
                opened = opening.open()
            config, checkpoint = opened.config, opened.checkpoint
            whole_files = device.type == "cpu" and sharding is None  # a rank needs its windows only
            readers = checkpoint.readers_ahead(device, 1 if sharding is None else sharding.mesh.size())
            with readers, checkpoint.mapped_ahead() if whole_files else nullcontext():
                model = cls._spread(config, sharding, dtype or checkpoint.model_dtype())
                opened.bits.load(model, checkpoint, device, dtype)
            return model.to(device).eval() if isinstance(config, OpenConfig) else model.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load the model in the folder ``path``, or of that name in the catalog; see :meth:`from_pretrain`."""
        return cls.from_pretrain(path, **options)

    def load_weights(self, checkpoint_path: str | Path, *, mmap: bool = True) -> LoadReport:
        """Load weights into this model, in place, exactly or not at all.

        Args:
            checkpoint_path: a weights file or folder in any known format.
            mmap: map the files while they are read; see :meth:`from_pretrain`.

        Returns:
            What was loaded, drawn anew or not used.

        Raises:
            CheckpointError: the weights are damaged or unsafe, or do not fit.
        """
        dequantize = how_quantized(self) is None
        open_one = functools.partial(open_checkpoint, checkpoint_path, dequantize=dequantize, mmap=mmap)
        return self.load_checkpoint(alike(self.sharding, open_one, fingerprint))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors under our names, as torch does, or under those of any file, as :meth:`load_weights` does.

        Args:
            state_dict: tensors by name, such as ``torch.load(path)["module"]`` of a file of the original FlagAI.
            strict: see :meth:`torch.nn.Module.load_state_dict`.
            assign: see there.

        Returns:
            Names that are missing or unexpected; of a file's names there are none.

        Raises:
            LoadError: the names are a file's, and something is missing, unknown, or of the wrong shape or type.
        """
        tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
        if assign or not strict or not tensors or tensors.keys() & super().state_dict().keys():
            return super().load_state_dict(state_dict, strict, assign)
        self.load_checkpoint(Checkpoint(Path("the state dict"), [tensors]))
        return super().load_state_dict({}, strict=False)._replace(missing_keys=[])

    def load_checkpoint(
        self, checkpoint: Checkpoint, *, device: Device = "cpu", dtype: Dtype | None = None
    ) -> LoadReport:
        """Fill this model from an opened checkpoint, exactly or not at all.

        Args:
            checkpoint: the checkpoint.
            device: for models from :meth:`on_meta`, where the parameters shall be.
            dtype: for models from :meth:`on_meta`, their type; default the checkpoint's.

        Returns:
            What was loaded, drawn anew or not used.

        Raises:
            LoadError: something is missing, unknown, or of the wrong shape or type; the model is as it was.
        """
        self.check_names(checkpoint)
        device, dtype = read_device(device), read_dtype(dtype)
        if next(self.parameters()).is_meta:
            if dtype is None and len(checkpoint.dtypes) > 1:
                logger.info("%s holds %s; loading as %s", checkpoint.path, checkpoint.dtypes, checkpoint.dtype)
            dtype = dtype or checkpoint.model_dtype()
            if any(parameter.dtype != dtype for parameter in self.parameters()):
                self.to(dtype)
        report = fill(
            self,
            self.names,
            checkpoint,
            shard_dimension=functools.partial(shard_dimension, self.plan),
            fresh=self.fresh,
            optional=self.optional,
            device=device,
            replicas=None if self.sharding is None else self.sharding.replicas,
        )
        self._materialise(report.newly_initialized, device)
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

    def _materialise(self, names: list[str], device: torch.device) -> None:
        """Randomly initialize parameters, in new memory if they are on the meta device; tied ones stay tied."""
        if not names:
            return
        unique = {id(parameter): parameter for parameter in map(self.get_parameter, names)}
        needed = sum(local(parameter).nbytes for parameter in unique.values() if parameter.is_meta)
        with memory_explained(type(self).__name__, needed, device, lambda: ""):
            materialize(self, names, device)
        self.init_weights([name for name, _ in self.named_parameters() if name in names])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def backbone(self) -> "BaseModel":
        """The model below the head; the model itself if it has no head."""
        inner = self._modules.get("model")
        return inner if isinstance(inner, BaseModel) else self

    @property
    def max_positions(self) -> int | None:
        """How many tokens have a position; None if positions are relative."""
        if self.backbone is not self:
            return self.backbone.max_positions
        table = getattr(getattr(self, "embed", None), "position", None)
        return None if table is None else int(table.num_embeddings)

    def ignore(self, redundant: Mapping[str, Any]) -> None:
        """Drop redundant arguments of ``forward``, with a warning if one looks like a misspelt real one.

        Args:
            redundant: the arguments that ``forward`` did not name.
        """
        for name in (name for name, value in redundant.items() if value is not None):
            warn_of_near_miss(type(self), name)  # type: ignore[arg-type]  # classes are hashable
