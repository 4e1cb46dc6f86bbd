"""Values of settings: the types of fields with their ranges, and what else a file may write for them."""

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from flagai.errors import ConfigError, InputError
from flagai.typed_json import as_bool, as_float, as_int, shown


@dataclass(frozen=True)
class Range:
    """The smallest and the largest number that a field accepts; it stands in the field's type."""

    low: float
    high: float


# Products of three sizes count fewer bytes than a 64-bit number can.
Size = Annotated[int, Range(1, 2**20)]
Vocabulary = Annotated[int, Range(1, 2**24)]
Heads = Annotated[int, Range(1, 2**12)]
Count = Annotated[int, Range(0, 2**20)]
TokenId = Annotated[int, Range(0, 2**31)]
Layers = Annotated[int, Range(1, 1024)]
Rate = Annotated[float, Range(0, 1)]
Scale = Annotated[float, Range(0, 1000)]

_SPELLINGS = {int: as_int, float: as_float, bool: as_bool}


@dataclass(frozen=True)
class Kind:
    """A type that a field accepts.

    Args:
        type: the plain type.
        range: of a number, if the field has one.
    """

    type: type
    range: Range | None = None

    def read(self, value: Any) -> Any:
        """The value as this type, or None if it is no spelling of one."""
        if type(value) is self.type or (self.type not in _SPELLINGS and isinstance(value, self.type)):
            return value
        return _SPELLINGS[self.type](value) if self.type in _SPELLINGS else None


@functools.cache
def field_kinds(cls: type) -> dict[str, tuple[Kind, ...]]:
    """The types that each field of a configuration accepts; none where any value is right."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: _kinds(hint)
        for name, hint in hints.items()
        if typing.get_origin(hint) is not ClassVar and name != "extra"
    }


def _kinds(hint: Any) -> tuple[Kind, ...]:
    found = [_kind(part) for part in _parts(hint)]
    return () if None in found else tuple(kind for kind in found if kind is not None)


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _kind(hint: Any) -> Kind | None:
    limits = None
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        limits = next((note for note in notes if isinstance(note, Range)), None)
    plain = typing.get_origin(hint) or hint
    return Kind(plain, limits) if isinstance(plain, type) and plain is not Any else None


def accepts_null(kinds: tuple[Kind, ...]) -> bool:
    """Whether null is a value of its own; else it means that the field is not set."""
    return not kinds or any(kind.type is types.NoneType for kind in kinds)


def check_mapping(values: Any, source: str) -> None:
    """Refuse what holds no settings.

    Args:
        values: what should be the content of a config.json.
        source: where it comes from, for messages.

    Raises:
        InputError: it is no mapping.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{source} is {shown(values)}; expected settings, as <config class>.from_json(path) reads.")


def checked(owner: str, name: str, value: Any, kinds: tuple[Kind, ...]) -> Any:
    """A value as its field's type; 24.0 and "24" serve as 24, 1 as true.

    Args:
        owner: the configuration's class, for messages.
        name: the field.
        value: what was given.
        kinds: what the field accepts.

    Raises:
        ConfigError: the value is of another type, or out of range.
    """
    if not kinds or (value is None and accepts_null(kinds)):
        return value
    exact = [kind for kind in kinds if type(value) is kind.type]
    for kind in exact or kinds:
        read = kind.read(value)
        if read is not None:
            if kind.range is not None and not kind.range.low <= read <= kind.range.high:
                raise ConfigError(
                    f"{owner}: {name} is {shown(value)}, expected a number from {kind.range.low} to {kind.range.high}."
                )
            return read
    expected = " or ".join("null" if kind.type is types.NoneType else kind.type.__name__ for kind in kinds)
    raise ConfigError(f"{owner}: {name} is {shown(value)}, expected {expected}.")
