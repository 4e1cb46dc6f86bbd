"""Typed configurations: published key names in, checked overrides, JSON out."""

import dataclasses
import difflib
import inspect
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from flagai.checkpoint.atomic import replace_file
from flagai.checks import check_path
from flagai.errors import ConfigError
from flagai.model.config_values import accepts_null, check_mapping, checked, field_kinds
from flagai.typed_json import Fields, as_int, read_json, shown

logger = logging.getLogger(__name__)

# Keys that only one family's configuration has: they tell families apart where `model_type` is absent.
_SIGNATURES = {
    "glm": ("max_sequence_length", "block_position_encoding"),
    "gpt2": ("n_embd", "n_layer"),
    "t5": ("d_model", "d_kv"),
    "bert": ("num_hidden_layers", "type_vocab_size"),
}

# What from_pretrain takes besides settings; for the nearest name in messages.
LOADING_ARGUMENTS = (
    "download_path",
    "model_name",
    "only_download_config",
    "device",
    "dtype",
    "mesh",
    "fsdp",
    "quantize",
    "mmap",
)

# What no family implements, with the only value that each accepts.
_NOT_SUPPORTED: dict[str, Any] = {"pruned_heads": {}, "per_layer_config": {}, "quantization_config": {}}

# Values of `model_type` that mean a family under another name.
_SYNONYMS = {"mt5": "t5", "roberta": "bert"}


@dataclass(kw_only=True)
class ModelConfig:
    """Base of the configurations: a dataclass that never changes and can also be read like a dictionary.

    Subclasses declare their fields under the names of the published files and set the class variables:
    ``family``; ``model_types``, the values of `model_type` that they accept; ``aliases``, other names of fields
    (an alias in the file wins over the field); ``required``, keys that a file must have; ``fixed``, keys of
    variants that the model does not implement, with the only value that it accepts. A field whose type is
    ``Annotated[int, Range(1, 100)]`` (:mod:`flagai.model.config_values`) accepts numbers of this range.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    aliases: ClassVar[Mapping[str, str]] = {}
    required: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}

    checkpoint_activations: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check types and values."""
        for name, kinds in field_kinds(type(self)).items():  # type: ignore[arg-type]  # classes are hashable
            setattr(self, name, checked(type(self).__name__, name, getattr(self, name), kinds))
        for name, value in {**_NOT_SUPPORTED, **self.fixed}.items():
            given = self.get(name)
            same = given is None or given == value or not (given or value)
            self.require(same, f"{name}={shown(given)} is not supported, only {value!r}")
        self.check()
        self.__dict__["_complete"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Fields never change; what others set beside them, as transformers' Trainer does, means nothing to us."""
        if "_complete" in self.__dict__ and name in {entry.name for entry in fields(self)}:
            raise ConfigError(f"{type(self).__name__}.{name} cannot be set. Take config.replace({name}={value!r}).")
        super().__setattr__(name, value)

    def check(self) -> None:
        """Check how values go together; subclasses extend it.

        Raises:
            ConfigError: they do not.
        """

    def require(self, condition: bool, message: str) -> None:
        """Raise a ConfigError that names the class unless a condition holds."""
        if not condition:
            raise ConfigError(f"{type(self).__name__}: {message}")

    @classmethod
    def names(cls) -> list[str]:
        """The names that overrides may use: fields and their aliases."""
        return [entry.name for entry in fields(cls) if entry.name != "extra"] + list(cls.aliases)

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
        own = {entry.name for entry in fields(cls) if entry.name != "extra"}
        try:
            settled = {cls.aliases.get(name, name) for name in overrides}
            values = {key: value for key, value in values.items() if cls.aliases.get(key, key) not in settled}
            given = cls._with_field_names(cls.adapt(with_labels({**values, **overrides}, cls.__name__)))
            given |= cls._with_field_names(overrides)
            absent = [name for name in cls.required if name not in given]
            if absent:
                raise ConfigError(f"lacks {', '.join(absent)}, so it does not describe a {cls.family} model.")
            extra = {key: value for key, value in given.items() if key not in own}
            return cls(**{key: value for key, value in given.items() if key in own}, extra=extra)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Translate what a mere renaming of keys cannot; subclasses override it."""
        return values

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:  # noqa: ARG003
        """Complete the content of a config.json by the files beside it; subclasses override it.

        Args:
            values: the file's content.
            folder: where the files are.
            settled: fields that are set whatever the files say.
        """
        return values

    @classmethod
    def _with_field_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Content under the names of fields, without what is null and thereby not set."""
        kinds = field_kinds(cls)  # type: ignore[arg-type]  # classes are hashable
        found = {key: value for key, value in values.items() if key not in cls.aliases}
        for alias, name in cls.aliases.items():
            value = values.get(alias)
            if value is None:
                continue
            if found.get(name) not in (None, value):
                logger.warning("%s=%s counts, %s=%s does not.", alias, shown(value), name, shown(found[name]))
            found[name] = value
        return {key: value for key, value in found.items() if value is not None or accepts_null(kinds.get(key, ()))}

    @classmethod
    def _check_family(cls, values: Mapping[str, Any], source: str) -> None:
        found = family_of(values, source)
        if found is not None and found != cls.family:
            raise ConfigError(
                f"{source} describes a {found} model, not a {cls.family} model: load it with a class of "
                f"flagai.model.{found}_model."
                if found in _SIGNATURES
                else f"{source} describes a {shown(found)} model, which is none of {', '.join(_SIGNATURES)}."
            )

    @classmethod
    def from_json(cls, path: str | Path, **overrides: Any) -> Self:
        """Read a config.json; see :meth:`from_dict`.

        Raises:
            ConfigError: the file is absent or no JSON object, or its content is wrong.
        """
        path = check_path("config_file", path)
        if not path.is_file():
            raise ConfigError(f"There is no configuration file {path}.")
        values = cls.beside(read_json(path), path.parent, overrides)
        return cls.from_dict(values, source=str(path), **overrides)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the keys kept from the file, under their published names."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "extra"}
        return {**self.extra, **own, "model_type": self.extra.get("model_type", self.model_types[0])}

    def to_json(self, path: str | Path, **additions: Any) -> None:
        """Write config.json, atomically.

        Args:
            path: the file.
            **additions: further keys to write, such as ``architectures``.
        """
        text = json.dumps({**self.to_dict(), **additions}, indent=2, sort_keys=True, ensure_ascii=False)
        with replace_file(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

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
        name = self.aliases.get(name, name)
        if name in {entry.name for entry in fields(self)}:
            return getattr(self, name)
        return self.extra.get(name, default)


_ABSENT = object()


@dataclass(kw_only=True)
class OpenConfig(ModelConfig):
    """The configuration of a user's own model that declares none: any keys, read as attributes or like a dictionary."""

    family: ClassVar[str] = "custom"
    model_types: ClassVar[tuple[str, ...]] = ("custom",)
    use_cache: bool = False

    @classmethod
    def _check_family(cls, values: Mapping[str, Any], source: str) -> None:
        """Any family will do."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration", **overrides: Any) -> Self:
        """See the base class; overrides may have any name."""
        check_mapping(values, source)
        config = super().from_dict({**values, **overrides}, source)
        config.__dict__["_passed"] = overrides
        return config

    def arguments_of(self, constructor: Callable[..., None]) -> dict[str, Any]:
        """The settings that a constructor takes: those named as its parameters are, and with `**` all that were passed.

        Args:
            constructor: its ``__init__``.
        """
        parameters = list(inspect.signature(constructor).parameters.values())[2:]  # after self and config
        named = {entry.name: self[entry.name] for entry in parameters if entry.name in self}
        takes_all = any(entry.kind is entry.VAR_KEYWORD for entry in parameters)
        return {**(self.__dict__.get("_passed", {}) if takes_all else {}), **named}

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(f"The configuration has no {name!r}. It has: {', '.join(sorted(extra))}.")


def with_labels(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Content whose ``id2label`` is a table from numbers, written as texts, to names; absent if it names nothing.

    Args:
        values: the content of a config.json, where it may also be a list, or null.
        place: where it comes from, for messages.

    Raises:
        ConfigError: it is no table of names, or its keys are no numbers.
    """
    named = values.get("id2label")
    table = dict(enumerate(named)) if isinstance(named, list) else Fields(values, place).mapping("id2label")
    numbers = [as_int(key) for key in table]
    if None in numbers or not all(isinstance(name, str | int | float) for name in table.values()):
        raise ConfigError(f'{place}, id2label: {shown(named)} is no table of numbers and names, as {{"0": "O"}} is.')
    rest = {key: value for key, value in values.items() if key != "id2label"}
    return {**rest, "id2label": dict(zip(map(str, numbers), table.values(), strict=True))} if table else rest


def architecture_of(values: Mapping[str, Any]) -> str | None:
    """The class that a configuration names in ``architectures``, a list or a text; None if it names none.

    Raises:
        ConfigError: it is neither.
    """
    stated = values.get("architectures")
    names = [stated] if isinstance(stated, str) else Fields(values, "config.json").texts("architectures")
    return names[0] if names else None


def model_type_of(values: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    """What a configuration says in ``model_type``, in lower case; where it is silent, what its architecture tells.

    Args:
        values: the content of a config.json.
        classes: beginnings of transformers' class names, and the ``model_type`` that each means.

    Raises:
        ConfigError: one of the two is no text.
    """
    stated = Fields(values, "config.json").text("model_type", "").lower()
    name = "" if stated else architecture_of(values) or ""
    return stated or next((kind for beginning, kind in classes.items() if name.startswith(beginning)), "")


def family_of(values: Mapping[str, Any], place: str = "config.json") -> str | None:
    """Name the family that a configuration describes; None if nothing tells.

    GLM-4 and its successors also call themselves "glm"; only the original series has its own keys.

    Args:
        values: the content of a config.json.
        place: where it comes from, for messages.

    Raises:
        ConfigError: ``model_type`` is no text.
    """
    stated = Fields(values, place).text("model_type", "").lower()
    if stated == "glm":
        return "glm" if "num_layers" in values else "glm (the GLM-4 architecture)"
    if stated:
        return _SYNONYMS.get(stated, stated)
    return next((family for family, keys in _SIGNATURES.items() if all(key in values for key in keys)), None)


def _unknown_override(cls: type[ModelConfig], name: str) -> str:
    if name in LOADING_ARGUMENTS:
        return f"{cls.__name__} has no setting {name!r}: it is an argument of from_pretrain, not of this call."
    near = difflib.get_close_matches(name, [*cls.names(), *LOADING_ARGUMENTS], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(cls.names()))}."
    return f"{cls.__name__} has no setting {name!r}.{hint}"
