"""Fields of a configuration: their documentation, range and aliases, declared where the field is."""

import functools
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from flagai.errors import ConfigError
from flagai.typed_json import as_bool, as_float, as_int, shown

# Ranges. Products of three sizes count fewer bytes than a 64-bit number can.
SIZE = (1, 2**20)
VOCABULARY = (1, 2**24)
HEADS = (1, 2**12)
LAYERS = (1, 1024)
COUNT = (0, 2**20)
TOKEN_ID = (0, 2**31)
PROBABILITY = (0, 1)
SCALE = (0, 1000)

_PARSERS = {int: as_int, float: as_float, bool: as_bool}


def setting(
    default: Any = MISSING,
    *,
    doc: str = "",
    range: tuple[float, float] | None = None,  # noqa: A002  # the word that says it
    aliases: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a configuration, which is a dataclass.

    Args:
        default: its value where a file has none; without one, every file must have it.
        doc: what it means.
        range: the smallest and the largest number that it accepts; default any.
        aliases: other names of it in files and overrides. In a file, an alias counts where both names are given.

    Returns:
        A :func:`dataclasses.field`.

    Example:
        >>> @dataclass(kw_only=True)
        ... class TinyConfig:
        ...     width: int = setting(64, range=(1, 4096), aliases=("hidden_size",), doc="size of the hidden states")
    """
    return field(default=default, metadata={"doc": doc, "range": range, "aliases": aliases})


@dataclass(frozen=True)
class FieldSpec:
    """What a field of a configuration accepts."""

    name: str  # the field
    types: tuple[type, ...]  # the types of its values; () where any value is right
    required: bool  # whether it has no default
    range: tuple[float, float] | None = None  # the smallest and the largest number
    aliases: tuple[str, ...] = ()  # other names of it
    doc: str = ""  # what it means

    @property
    def nullable(self) -> bool:
        """Whether null is a value of its own; else it means that the field is not set."""
        return not self.types or types.NoneType in self.types

    def parse(self, value: Any, owner: str) -> Any:
        """A value as the field's type; 24.0 and "24" serve as 24, 1 as true.

        Raises:
            ConfigError: the value is of another type, or out of range; the message begins with ``owner``.
        """
        if not self.types or (value is None and self.nullable):
            return value
        exact = [kind for kind in self.types if type(value) is kind]
        parsed = next((found for kind in exact or self.types if (found := _parsed(kind, value)) is not None), None)
        if parsed is None:
            expected = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in self.types)
            raise ConfigError(f"{owner}: {self.name} is {shown(value)}, expected {expected}.")
        if self.range is not None and type(parsed) in (int, float) and not self.range[0] <= parsed <= self.range[1]:
            low, high = self.range
            raise ConfigError(f"{owner}: {self.name} is {shown(value)}, expected a number from {low} to {high}.")
        return parsed


def _parsed(kind: type, value: Any) -> Any:
    """A value as one type; None if it is not a spelling of one."""
    if type(value) is kind or (kind not in _PARSERS and isinstance(value, kind)):
        return value
    return _PARSERS[kind](value) if kind in _PARSERS else None


def field_specs(cls: type) -> dict[str, FieldSpec]:
    """What each field of a dataclass accepts, by its name; ``extra``, the rest of a file, is left out."""
    return _field_specs(cls)


def field_aliases(cls: type) -> dict[str, str]:
    """The field that each alias means."""
    return {alias: name for name, spec in _field_specs(cls).items() for alias in spec.aliases}


@functools.cache
def _field_specs(cls: type) -> dict[str, FieldSpec]:
    hints = typing.get_type_hints(cls)
    return {
        entry.name: FieldSpec(
            entry.name,
            _types(hints[entry.name]),
            entry.default is MISSING and entry.default_factory is MISSING,
            **entry.metadata,
        )
        for entry in fields(cls)
        if entry.name != "extra"
    }


def _types(hint: Any) -> tuple[type, ...]:
    """The plain types that a type hint allows; () if it allows any value."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    plain = [typing.get_origin(part) or part for part in parts]
    return tuple(plain) if all(isinstance(kind, type) and kind is not Any for kind in plain) else ()
