"""What the reader of pickles makes of them, besides plain Python values."""

from dataclasses import dataclass

# Names of classes, tensors and records.
LONGEST_NAME = 1000
# torch's own limit.
MOST_DIMENSIONS = 64


class DamagedPickleError(ValueError):
    """The bytes are no pickle, or no pickle of torch's."""


class UnsafePickleError(ValueError):
    """The pickle names a class or function that is not known to be harmless; the argument is its name."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    name: str


@dataclass(frozen=True)
class StorageReference:
    """The memory of one or more tensors: type by its name in torch, key of the record, number of elements."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class TensorReference:
    """A tensor: which elements of which storage, counted in elements. ``dtype`` overrules the storage's type."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


@dataclass(frozen=True)
class StandIn:
    """Stands for an object that is not built."""

    kind: str


def is_short(name: object) -> bool:
    """Whether a value is a text short enough for a name; comparing longer ones again and again takes long."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME
