"""Typed configurations: published key names in, checked overrides, JSON out."""

import dataclasses
import difflib
import inspect
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from flagai.checkpoint.atomic import replace_file
from flagai.checks import check_path
from flagai.errors import ConfigError
from flagai.families.config_content import check_mapping, family_of, with_labels
from flagai.families.family import family_names, is_family
from flagai.model.config_fields import field_aliases, field_specs, setting
from flagai.typed_json import read_json, shown

logger = logging.getLogger(__name__)

# Arguments of transformers' from_pretrained and of FlagAI's -> what takes their place here; for messages.
_OTHER_NAMES = {
    "cache_dir": "download_path",
    "torch_dtype": "dtype",
    "device_map": "device",
    "load_in_8bit": 'quantize="int8"',
    "load_in_4bit": 'quantize="int4"',
    "fp16": 'dtype="float16"',
    "num_class": "class_num",
}
# Arguments of FlagAI's from_pretrain that nothing needs here -> why.
_NEEDLESS = {
    "use_cache": "generation always keeps keys and values",
    "enable_flash_atten": "the fastest attention that suits is chosen",
    "tune_prefix_layers": "which parameters are trained is said by their requires_grad",
}
# What from_pretrain takes besides settings; for the nearest name in messages.
LOADING_ARGUMENTS = (
    "adapter",
    "download_path",
    "model_name",
    "only_download_config",
    "revision",
    "device",
    "dtype",
    "mesh",
    "fsdp",
    "quantize",
    "mmap",
)

# What no family implements, with the only value that each accepts.
_NOT_SUPPORTED: dict[str, Any] = {"pruned_heads": {}, "per_layer_config": {}, "quantization_config": {}}


@dataclass(kw_only=True)
class ModelConfig:
    """Base of the configurations: a dataclass that never changes and can also be read like a dictionary.

    Subclasses declare their fields under the names of the published files, by
    :func:`flagai.model.config_fields.setting` or as any dataclass does, and set the class variables: ``family``;
    ``model_types``, the values of `model_type` that they accept; ``fixed``, keys of variants that the model does not
    implement, with the only value that it accepts.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    fixed: ClassVar[Mapping[str, Any]] = {}

    checkpoint_activations: bool = setting(False, doc="recompute activations in the backward pass, to save memory")
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)  # other keys of the file

    def __post_init__(self) -> None:
        """Check types and values."""
        for name, spec in field_specs(type(self)).items():
            setattr(self, name, spec.parse(getattr(self, name), type(self).__name__))
        for name, value in {**_NOT_SUPPORTED, **self.fixed}.items():
            given = self.get(name)
            same = given is None or given == value or not (given or value)
            self.require(same, f"{name}={shown(given)} is not supported, only {value!r}")
        self.check()
        self.__dict__["_complete"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Fields never change; what others set beside them, as transformers' Trainer does, means nothing to us."""
        if "_complete" in self.__dict__ and (name == "extra" or name in field_specs(type(self))):
            raise ConfigError(f"{type(self).__name__}.{name} cannot be set. Take config.replace({name}={value!r}).")
        super().__setattr__(name, value)

    def check(self) -> None:
        """Check how values fit together; subclasses extend it.

        Raises:
            ConfigError: they do not.
        """

    def require(self, condition: bool, message: str) -> None:
        """Check a condition.

        Raises:
            ConfigError: it does not hold; ``message`` follows the name of the class.
        """
        if not condition:
            raise ConfigError(f"{type(self).__name__}: {message}")

    @classmethod
    def names(cls) -> list[str]:
        """The names that overrides may use: fields and their aliases."""
        return [*field_specs(cls), *field_aliases(cls)]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration", **overrides: Any) -> Self:
        """Build a configuration from the content of a config.json.

        Keys of the file that mean nothing to the model are kept in ``extra`` and written back by
        :meth:`to_dict`. A setting that is null is as if it were absent, unless null is a value of its own.

        Args:
            values: the file's content, with FlagAI's or Hugging Face's key names.
            source: where it comes from, for messages.
            **overrides: fields (or aliases) to set, whatever the file says.

        Raises:
            ConfigError: a model of another family, a missing key, a wrong type or an unknown override.
        """
        check_mapping(values, source)
        cls._check_family(values, source)
        for name in overrides:
            if name not in cls.names():
                raise ConfigError(_unknown_override(cls, name))
        specs, aliases = field_specs(cls), field_aliases(cls)
        try:
            settled = {aliases.get(name, name) for name in overrides}
            values = {key: value for key, value in values.items() if aliases.get(key, key) not in settled}
            given = cls._with_field_names(cls.adapt(with_labels({**values, **overrides}, cls.__name__)))
            given |= cls._with_field_names(overrides)
            absent = [name for name, spec in specs.items() if spec.required and name not in given]
            if absent:
                raise ConfigError(f"lacks {', '.join(absent)}, so it does not describe a {cls.family} model.")
            extra = {key: value for key, value in given.items() if key not in specs}
            return cls(**{key: value for key, value in given.items() if key in specs}, extra=extra)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a config.json after what a mere renaming of keys cannot do; subclasses override it."""
        return values

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:  # noqa: ARG003
        """The values of a config.json, completed by the files beside it; subclasses override it.

        Args:
            values: the content of config.json.
            folder: where it lies.
            settled: the keys that an override decides.
        """
        return values

    @classmethod
    def _with_field_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Content under the names of fields, without what is null and thereby not set."""
        specs, aliases = field_specs(cls), field_aliases(cls)
        found = {key: value for key, value in values.items() if key not in aliases}
        for alias, name in aliases.items():
            value = values.get(alias)
            if value is None:
                continue
            if found.get(name) not in (None, value):
                logger.warning("%s=%s counts, %s=%s does not.", alias, shown(value), name, shown(found[name]))
            found[name] = value
        never_null = {name for name, spec in specs.items() if not spec.nullable}
        return {key: value for key, value in found.items() if value is not None or key not in never_null}

    @classmethod
    def _check_family(cls, values: Mapping[str, Any], source: str) -> None:
        found = family_of(values, source)
        if found is not None and found != cls.family:
            raise ConfigError(
                f"{source} describes a {found} model, not a {cls.family} model: load it with a class of "
                f"flagai.model.{found}_model."
                if is_family(found)
                else f"{source} describes a {shown(found)} model, which is none of {', '.join(family_names())}."
            )

    @classmethod
    def from_json(cls, path: str | Path, **overrides: Any) -> Self:
        """Read the config.json at ``path``; see :meth:`from_dict`.

        Raises:
            ConfigError: the file is absent or not a JSON object, or its content is wrong.
        """
        path = check_path("config_file", path)
        if not path.is_file():
            raise ConfigError(f"There is no configuration file {path}.")
        values = cls.beside(read_json(path), path.parent, overrides)
        return cls.from_dict(values, source=str(path), **overrides)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the keys kept from the file, under their published names."""
        own = {name: getattr(self, name) for name in field_specs(type(self))}
        return {**self.extra, **own, "model_type": self.extra.get("model_type", self.model_types[0])}

    def in_layout(self, layout: str) -> dict[str, Any]:
        """The content of a config.json beside weights of this layout; subclasses whose layouts differ override it."""
        return self.to_dict()

    def to_json(self, path: str | Path, layout: str = "flagai", **additions: Any) -> None:
        """Write config.json, atomically.

        Args:
            path: the file.
            layout: of the weights beside it.
            **additions: further keys to write, such as ``architectures``.
        """
        text = json.dumps({**self.in_layout(layout), **additions}, indent=2, sort_keys=True, ensure_ascii=False)
        with replace_file(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8", newline="\n")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __getitem__(self, name: str) -> Any:
        """``config["hidden_size"]``, for code written for FlagAI's dictionaries."""
        value = self.get(name, _ABSENT)
        if value is _ABSENT:
            raise KeyError(name)
        return value

    def keys(self) -> list[str]:
        """The names of all fields and keys kept from the file, so that ``dict(config)`` works."""
        return list(self.to_dict())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: str) -> bool:
        return self.get(name, _ABSENT) is not _ABSENT

    def get(self, name: str, default: Any = None) -> Any:
        """A field by name or alias, or a key kept from the file, or the default."""
        name = field_aliases(type(self)).get(name, name)
        return getattr(self, name) if name in field_specs(type(self)) else self.extra.get(name, default)


_ABSENT = object()


@dataclass(kw_only=True)
class OpenConfig(ModelConfig):
    """The configuration of a user's own model that declares none: any keys, read as attributes or like a dictionary."""

    family: ClassVar[str] = "custom"
    model_types: ClassVar[tuple[str, ...]] = ("custom",)
    use_cache: bool = False  # of transformers; no effect

    @classmethod
    def _check_family(cls, values: Mapping[str, Any], source: str) -> None:
        """Any family will do."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration", **overrides: Any) -> Self:
        """The configuration of any values of a file, which errors call ``source``; overrides may have any name."""
        check_mapping(values, source)
        config = super().from_dict({**values, **overrides}, source)
        config.__dict__["_passed"] = overrides
        return config

    def arguments_of(self, constructor: Callable[..., None]) -> dict[str, Any]:
        """The settings that a constructor takes: those named as its parameters are, with `**` all that were passed."""
        parameters = list(inspect.signature(constructor).parameters.values())[2:]  # after self and config
        named = {entry.name: self[entry.name] for entry in parameters if entry.name in self}
        takes_all = any(entry.kind is entry.VAR_KEYWORD for entry in parameters)
        return {**(self.__dict__.get("_passed", {}) if takes_all else {}), **named}

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(f"The configuration has no {name!r}. It has: {', '.join(sorted(extra))}.")


def _unknown_override(cls: type[ModelConfig], name: str) -> str:
    if name in LOADING_ARGUMENTS:
        return f"{cls.__name__} has no setting {name!r}: it is an argument of from_pretrain, not of this call."
    if name in _NEEDLESS:
        return f"{cls.__name__} has no setting {name!r}. Leave it out: {_NEEDLESS[name]}."
    if name in _OTHER_NAMES:
        return f"{cls.__name__} has no setting {name!r}. Did you mean '{_OTHER_NAMES[name]}'?"
    near = difflib.get_close_matches(name, [*cls.names(), *LOADING_ARGUMENTS], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(cls.names()))}."
    return f"{cls.__name__} has no setting {name!r}.{hint}"
