"""Typed configurations: published key names in, checked overrides, JSON out."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Self

from flagai.checkpoint.atomic import replace_file
from flagai.errors import ConfigError
from flagai.typed_json import read_json

# Keys that only one family's configuration has: they tell families apart where `model_type` is absent.
_SIGNATURES = {
    "glm": ("max_sequence_length", "block_position_encoding"),
    "gpt2": ("n_embd", "n_layer"),
    "t5": ("d_model", "d_kv"),
    "bert": ("num_hidden_layers", "type_vocab_size"),
}

# Names of fields (patterns, the first that fits) -> the smallest and the largest sensible number.
_RANGES = {
    "*drop*": (0, 1),
    "*_prob": (0, 1),
    "*_token_id": (0, 2**31),
    "position_offset": (0, 2**31),
    "spell_length": (0, 2**31),
    "max_memory_length": (0, 2**31),
    "*layer": (1, 10_000),
    "*layers": (1, 10_000),
    "length_penalty": (-1000, 1000),
    "initializer_*": (0, 1000),
    "*eps*": (0, 1),
    "*": (1, 2**31),
}

# What from_pretrain takes besides settings; for the nearest name in messages.
_LOADING = ("download_path", "model_name", "only_download_config", "device", "dtype", "mesh", "fsdp", "quantize")

# Values of `model_type` that mean a family under another name.
_SYNONYMS = {"mt5": "t5", "roberta": "bert"}


@dataclass(kw_only=True)
class ModelConfig:
    """Base of the configurations: a dataclass that never changes and can also be read like a dictionary.

    Subclasses declare their fields under the names of the published files and set the class variables:
    ``family``; ``model_types``, the values of `model_type` that they accept; ``aliases``, other names of fields
    (an alias in the file wins over the field); ``required``, keys that a file must have; ``fixed``, keys of
    variants that the model does not implement, with the only value that it accepts.
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
        for name, kinds in _field_kinds(type(self)).items():
            setattr(self, name, _checked(type(self).__name__, name, getattr(self, name), kinds))
        for name, value in self.fixed.items():
            given = self.get(name, value)
            self.require(given == value, f"{name}={given!r} is not supported, only {value!r}")
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
        :meth:`to_dict`.

        Args:
            values: the file's content, with FlagAI's or Hugging Face's key names.
            source: where it comes from, for messages.
            **overrides: fields (or aliases) to set, whatever the file says.

        Raises:
            ConfigError: a model of another family, a missing key, a wrong type or an unknown override.
        """
        cls._check_family(values, source)
        known = cls._with_field_names(cls.adapt(values))
        for name in overrides:
            if name not in cls.names():
                raise ConfigError(_unknown_override(cls, name))
        given = known | cls._with_field_names(overrides)
        absent = [name for name in cls.required if name not in given]
        if absent:
            raise ConfigError(f"{source} lacks {', '.join(absent)}, so it does not describe a {cls.family} model.")
        own = {entry.name for entry in fields(cls) if entry.name != "extra"}
        extra = {key: value for key, value in given.items() if key not in own}
        try:
            return cls(**{key: value for key, value in given.items() if key in own}, extra=extra)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Translate what a mere renaming of keys cannot; subclasses override it."""
        return values

    @classmethod
    def _with_field_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        plain = {key: value for key, value in values.items() if key not in cls.aliases}
        return plain | {cls.aliases[key]: value for key, value in values.items() if key in cls.aliases}

    @classmethod
    def _check_family(cls, values: Mapping[str, Any], source: str) -> None:
        found = family_of(values)
        if found is not None and found != cls.family:
            raise ConfigError(
                f"{source} describes a {found} model, not a {cls.family} model: load it with a class of "
                f"flagai.model.{found}_model."
                if found in _SIGNATURES
                else f"{source} describes a {found!r} model, which is none of {', '.join(_SIGNATURES)}."
            )

    @classmethod
    def from_json(cls, path: str | Path, **overrides: Any) -> Self:
        """Read a config.json; see :meth:`from_dict`.

        Raises:
            ConfigError: the file is absent or no JSON object, or its content is wrong.
        """
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"There is no configuration file {path}.")
        return cls.from_dict(read_json(path), source=str(path), **overrides)

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


def family_of(values: Mapping[str, Any]) -> str | None:
    """Name the family that a configuration describes; None if nothing tells.

    GLM-4 and its successors also call themselves "glm"; only the original series has its own keys.
    """
    stated = values.get("model_type")
    if stated == "glm":
        return "glm" if "num_layers" in values else "glm (the GLM-4 architecture)"
    if isinstance(stated, str) and stated:
        return _SYNONYMS.get(stated, stated)
    return next((family for family, keys in _SIGNATURES.items() if all(key in values for key in keys)), None)


def _unknown_override(cls: type[ModelConfig], name: str) -> str:
    near = difflib.get_close_matches(name, [*cls.names(), *_LOADING], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(cls.names()))}."
    return f"{cls.__name__} has no setting {name!r}.{hint}"


def _field_kinds(cls: type[ModelConfig]) -> dict[str, tuple[type, ...]]:
    """The plain types that each field accepts."""
    kinds = {}
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is ClassVar or name == "extra":
            continue
        kinds[name] = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return kinds


def _checked(owner: str, name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    """Check a value against the types of its field; whole numbers serve as floats."""
    if float in kinds and int not in kinds and type(value) is int:
        value = float(value)
    if type(value) in (int, float) and type(value) in kinds:
        low, high = next(bounds for pattern, bounds in _RANGES.items() if fnmatchcase(name, pattern))
        if not low <= value <= high:
            raise ConfigError(f"{owner}: {name} is {value!r}, expected a number from {low} to {high}.")
    if type(value) not in kinds:
        expected = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{owner}: {name} is {value!r}, expected {expected}.")
    return value
