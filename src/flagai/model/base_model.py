"""What all models share: building from a configuration, and loading a folder."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from flagai.checkpoint.names import NameMap
from flagai.checkpoint.report import phase
from flagai.errors import ConfigError
from flagai.model.adapter_folder import AdapterFolders
from flagai.model.block.stack import BlockStack
from flagai.model.config import ModelConfig, OpenConfig
from flagai.model.device import Device, Dtype, read_device
from flagai.model.inputs import warn_of_near_miss
from flagai.model.loading import LoadMixin
from flagai.model.meta_init import init_on_meta
from flagai.model.opening import load_model
from flagai.parallel.plan import Plan
from flagai.resolve import CONFIG_FILE

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.parallel.fsdp import FullyShard
    from flagai.parallel.sharding import Sharding

logger = logging.getLogger(__name__)


class BaseModel(LoadMixin):
    """Base of all models.

    Subclasses say in class variables what is particular to them: ``config_class``; ``names`` and ``plan``, the
    family's tables; ``fresh``, patterns of parameters that a pretrained backbone does not have; ``optional``,
    modules that the model does without if a checkpoint has none; ``prefixes``, what each written layout puts
    before the backbone's names; ``architecture``, the name of the same model in transformers; ``needs_classes``,
    whether its head needs ``class_num``. The methods that load weights are in ``loading.py``, those that save in
    ``saving.py``.

    A class without ``config_class``, as written for FlagAI, takes any config.json. Its layers have the initial values
    that its constructor gives them, and settings that are passed reach the constructor too, if it takes them.

    Args:
        config: the configuration, or its content.
        **redundant: ignored, as in the original.

    Example:
        >>> GLMModel.from_pretrained("GLM-large-ch", device="cuda", dtype=torch.bfloat16)
    """

    config_class: ClassVar[type[ModelConfig]] = OpenConfig
    own_class: "type[BaseModel]"
    names: NameMap = NameMap()
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
    def init_from_json(cls, config_file: str | Path = CONFIG_FILE, *, device: Device = "cpu", **overrides: Any) -> Self:
        """Build a model with randomly initialized weights.

        Args:
            config_file: a config.json with FlagAI's or Hugging Face's keys.
            device: where the model is placed.
            **overrides: settings that replace those of the file, such as ``checkpoint_activations=True``.

        Raises:
            ConfigError: the file is absent, broken or of another family, or an override is unknown.
            InputError: there is no such device.
        """
        place = read_device(device)
        return cls.on_meta(cls.config_class.from_json(config_file, **overrides)).initialized_on(place)

    def blocks_to_shard(self) -> Iterator[nn.Module]:
        """The modules that FSDP gathers one at a time."""
        return (block for stack in self.modules() if isinstance(stack, BlockStack) for block in stack)

    @classmethod
    def on_meta(cls, config: ModelConfig, dtype: torch.dtype | None = None, sharding: "Sharding | None" = None) -> Self:
        """Build a model on the meta device: names, shapes and dtypes only, to be filled by :meth:`load_checkpoint`.

        Args:
            config: the configuration.
            dtype: the parameters' dtype; default torch's. To cast them later takes longer.
            sharding: how the parameters are sharded over processes; default not at all.

        Raises:
            ConfigError: no model can have these sizes.
        """
        with phase("meta"):
            model = cls._with_shapes(config, dtype)
        if sharding is not None:
            with phase("shard"):
                sharding.apply(model, cls.plan, model.blocks_to_shard())
            model.sharding = sharding
        return model

    @classmethod
    def _with_shapes(cls, config: ModelConfig, dtype: torch.dtype | None) -> Self:
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
        revision: str | None = None,
        adapter: AdapterFolders | None = None,
        **config_overrides: Any,
    ) -> Self:
        """Load the model in ``download_path/model_name``; loading is strict, and what is absent is downloaded first.

        The folder holds ``config.json`` and weights in any format of :mod:`flagai.checkpoint.files`. On a CPU,
        weights in their own type are used where they lie in the page cache: nothing is copied, and processes
        share them.

        Args:
            download_path: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.
            model_name: the model's folder in it, its name in the catalog, in any case, or a repository:
                "owner/name" on Hugging Face, "hf:owner/name@revision" or "modelscope:owner/name".
            only_download_config: read only the configuration, and initialize the weights randomly.
            device: where the model is placed.
            dtype: the parameters' dtype, such as ``torch.float16`` or "float16"; default the one that most of the
                checkpoint has.
            mesh: spread the model over processes: a mesh with the dimensions ``tp`` (they share the model) and ``dp``
                (replicas), or "auto" (see :mod:`flagai.parallel.world`). Each process reads its part only.
            fsdp: shard over ``dp`` instead of keeping replicas.
            quantize: "int8" or "int4" keeps the weights of the blocks in so many bits, "int8-all" and "int4-all" also
                the token embedding in eight (:mod:`flagai.model.quantization`). A folder saved so needs no option.
            mmap: map the files of weights. False reads them into this process' memory at once: then they may be
                rewritten in place, which would end a process that maps them (SIGBUS).
            revision: the commit, branch or tag of a repository.
            adapter: the folder of a LoRA adapter of PEFT, which computes with the model from now on; or several by
                their names, of which each call chooses one (:meth:`load_adapter`).
            **config_overrides: settings that replace those of config.json, such as ``class_num=3``.

        Returns:
            The model in evaluation mode.

        Raises:
            ModelNotFoundError: there is no such folder, and the catalog has no such name; the message has near ones.
            HubError: the model is not here and cannot be fetched; the message has what each source said.
            ConfigError: the configuration is broken or of another family, or an override is unknown.
            CheckpointError: the weights are damaged or unsafe, or do not fit; nothing was loaded then.
            InputError: there is no such device, type or way to quantize, or they do not fit together.
        """
        options = {
            "mesh": mesh,
            "fsdp": fsdp,
            "quantize": quantize,
            "mmap": mmap,
            "adapter": adapter,
            **config_overrides,
        }
        model: Self = load_model(
            lambda _: (cls, {}),
            download_path,
            model_name,
            only_download_config,
            device,
            dtype,
            revision=revision,
            **options,
        )
        return model

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load the model in the folder ``path``, or of that name, as :meth:`from_pretrain` does."""
        return cls.from_pretrain(path, **options)

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
    def hidden_width(self) -> int:
        """Size of the hidden states; a model whose token embedding is not ``embed.token`` overrides this."""
        embed: Any = self.backbone.embed
        return int(embed.token.embedding_dim)

    @property
    def max_positions(self) -> int | None:
        """How many tokens have a position; None if positions are relative."""
        if self.backbone is not self:
            return self.backbone.max_positions
        table = getattr(getattr(self, "embed", None), "position", None)
        return None if table is None else int(table.num_embeddings)

    def ignore(self, redundant: Mapping[str, Any]) -> None:
        """Drop redundant arguments of ``forward``, with a warning if one looks like a misspelt real one."""
        for name in (name for name, value in redundant.items() if value is not None):
            warn_of_near_miss(type(self), name)  # type: ignore[arg-type]  # classes are hashable
