"""Read a pickle without importing, calling or building anything that it names.

A small machine with the opcodes of pickle's protocols 0 to 5. Its values are plain Python values, references to
tensors, and stand-ins for objects of known harmless classes; any other class ends the reading. Each opcode costs a
constant, or what it takes from the file, so time and memory are bounded by the file's size: dictionaries keep only
short texts as keys, since the hash of nested tuples takes time exponential in their depth.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any, NoReturn

import torch

from flagai.checkpoint.formats.torch_names import DTYPES, STORAGES, is_harmless

# Of classes, tensors and records.
LONGEST_NAME = 1000
# torch's own limit.
MOST_DIMENSIONS = 64
# Models of ours have 40 opcodes for each of at most a few thousand tensors.
_MOST_OPCODES = 2_000_000
_LONGEST_LINE = 4096
_TENSOR_MAKERS = frozenset(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
_PARAMETER_MAKERS = frozenset(f"torch._utils._rebuild_parameter{state}" for state in ("", "_with_state"))


class DamagedPickleError(ValueError):
    """The bytes are no pickle, or no pickle of torch's."""


class UnsafePickleError(ValueError):
    """The pickle names a class or function that is not known to be harmless; the argument is its name."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, with its module."""

    name: str


@dataclass(frozen=True)
class StandIn:
    """Stands for an object of some kind, which is not built."""

    kind: str


@dataclass(frozen=True)
class StorageReference:
    """The memory of tensors: type (its name, if it is not read), key of the record, number of elements."""

    dtype: torch.dtype | str
    key: str
    count: int


@dataclass(frozen=True)
class TensorReference:
    """A tensor: which elements of which storage, counted in elements of its type."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype | str


class PickleMachine:
    """Reads pickles from a buffer, one after the other.

    Args:
        buffer: the bytes.
        start: where the first pickle begins.
        end: where the bytes end; default the buffer's end.

    Attributes:
        storages: every storage that was named so far, by key.
        at: where the next pickle begins.
    """

    def __init__(self, buffer: bytes | mmap, start: int = 0, end: int | None = None) -> None:
        self.storages: dict[str, StorageReference] = {}
        self.at = start
        self._buffer, self._end = buffer, len(buffer) if end is None else end
        self._left = _MOST_OPCODES

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            DamagedPickleError: the bytes are no pickle.
            UnsafePickleError: the pickle names something that is not known to be harmless.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        try:
            while (code := self._take(1)) != b".":
                self._left -= 1
                if self._left < 0:
                    self._fail("too many opcodes")
                if code in _VALUES:
                    self._stack.append(_VALUES[code](self))
                elif code in _ACTIONS:
                    _ACTIONS[code](self)
                else:
                    self._fail(f"opcode {code!r}")
            return self._stack.pop()
        except (DamagedPickleError, UnsafePickleError):
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise DamagedPickleError(f"at byte {self.at}: {error!r:.100}") from error

    def _fail(self, reason: str) -> NoReturn:
        raise DamagedPickleError(f"at byte {self.at}: {reason}")

    def _take(self, count: int) -> bytes:
        begin, self.at = self.at, self.at + count
        if count < 0 or self.at > self._end:
            self._fail("the pickle is cut short")
        return self._buffer[begin : self.at]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        found = self._buffer.find(b"\n", self.at, min(self._end, self.at + _LONGEST_LINE))
        if found < 0:
            self._fail("a line without an end")
        return self._take(found - self.at + 1)[:-1].decode("latin-1")

    def _top(self, count: int) -> list[Any]:
        """Take the upper values off the stack."""
        if len(self._stack) < count:
            self._fail("an empty stack")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        """Take the values above the last mark off the stack."""
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _add(self, kind: type, values: Sequence[Any]) -> None:
        """Add to the list or dictionary on the stack; what a stand-in gets is dropped."""
        target = self._stack[-1]
        if kind is list and isinstance(target, list):
            target.extend(values)
        elif kind is dict and isinstance(target, dict):
            target.update(_dictionary(values))
        elif not isinstance(target, StandIn):
            self._fail(f"values added to what is no {kind.__name__}")

    def _named(self, module: Any, name: Any) -> Name:
        if not _is_short(module) or not _is_short(name):
            self._fail("a class without a name of fewer than 1,000 characters")
        full = f"{module}.{name}"
        if not is_harmless(full):
            raise UnsafePickleError(full)
        return Name(full)

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a call of a function would give: a dictionary, a tensor, or a stand-in."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self._fail("a call of what is no function")
        if function.name == "collections.OrderedDict":
            pairs = arguments[0] if arguments else []
            self._left -= len(pairs)  # a list may be the argument of many calls
            return {pair[0]: pair[1] for pair in pairs if _is_short(pair[0])}
        if function.name in _TENSOR_MAKERS:
            return self._tensor(arguments, arguments[6].name if function.name.endswith("_v3") else None)
        if function.name in _PARAMETER_MAKERS:
            return arguments[0]
        if function.name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
            return self._called(arguments[0], arguments[2])
        return StandIn(function.name)

    def _tensor(self, arguments: tuple[Any, ...], dtype: str | None) -> TensorReference:
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, StorageReference):
            self._fail("a tensor of what is no storage")
        if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
            self._fail(f"a tensor of {len(shape)} dimensions and {len(stride)} strides")
        self._left -= len(shape)  # the same tuple may be the shape of many tensors
        if not are_countable(shape, [offset, *stride]):
            self._fail("a tensor of impossible extents")
        kind = storage.dtype if dtype is None else DTYPES.get(dtype, dtype)
        return TensorReference(storage, offset, tuple(shape), tuple(stride), kind)

    def _storage(self, key: Any) -> StorageReference:
        """The storage that a persistent id names."""
        if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or key[5:] not in ((), (None,)):
            self._fail("a persistent id that is not a storage")
        _, kind, name, _, count = key[:5]
        if not _is_short(name) or not are_countable([count]):
            self._fail("a storage without key or size")
        named = StorageReference(STORAGES.get(kind.name, kind.name), name, count)
        if self.storages.setdefault(name, named) != named:
            self._fail(f"two storages with the key {name!r:.50}")
        return named


def are_countable(extents: Sequence[Any], others: Sequence[Any] = ()) -> bool:
    """Whether numbers are whole, and the product of the extents one that torch can count, zeros left aside."""
    return all(type(number) is int and 0 <= number < 2**62 for number in (*extents, *others)) and (
        math.prod(extent or 1 for extent in extents) < 2**62
    )


def _is_short(name: object) -> bool:
    return isinstance(name, str) and len(name) <= LONGEST_NAME


def _dictionary(values: Sequence[Any]) -> dict[str, Any]:
    return {key: value for key, value in zip(values[::2], values[1::2], strict=False) if _is_short(key)}


def _integer(text: str) -> int | bool:
    return bool(int(text)) if text in ("00", "01") else int(text.removesuffix("L"))


def _struct(form: str) -> Callable[[PickleMachine], Any]:
    return lambda m: struct.unpack(form, m._take(struct.calcsize(form)))[0]


def _text(size: int, encoding: str | None) -> Callable[[PickleMachine], Any]:
    def read(m: PickleMachine) -> str | bytes:
        data = m._take(m._number(size))
        return data if encoding is None else data.decode(encoding, "surrogatepass")

    return read


def _tuple(count: int) -> Callable[[PickleMachine], Any]:
    return lambda m: tuple(m._top(count))


# The opcodes that push one value.
_VALUES: dict[bytes, Callable[[PickleMachine], Any]] = {
    b"N": lambda _: None,
    b"\x88": lambda _: True,
    b"\x89": lambda _: False,
    b")": lambda _: (),
    b"]": lambda _: [],
    b"}": lambda _: {},
    **dict.fromkeys((b"I", b"L"), lambda m: _integer(m._line())),
    b"F": lambda m: float(m._line()),
    b"S": lambda m: m._line()[1:-1],
    b"V": lambda m: m._line(),
    b"\x8a": lambda m: int.from_bytes(m._take(m._number(1)), "little", signed=True),
    b"\x8b": lambda m: int.from_bytes(m._take(m._number(4)), "little", signed=True),
    **{code: _struct(form) for code, form in ((b"J", "<i"), (b"K", "<B"), (b"M", "<H"), (b"G", ">d"))},
    **{code: _text(size, "utf-8") for code, size in ((b"X", 4), (b"\x8c", 1), (b"\x8d", 8))},
    **{code: _text(size, "latin-1") for code, size in ((b"T", 4), (b"U", 1))},  # texts of Python 2
    **{code: _text(size, None) for code, size in ((b"B", 4), (b"C", 1), (b"\x8e", 8), (b"\x96", 8))},
    b"t": lambda m: tuple(m._marked()),
    **{code: _tuple(count) for code, count in ((b"\x85", 1), (b"\x86", 2), (b"\x87", 3))},
    b"l": lambda m: m._marked(),
    b"d": lambda m: _dictionary(m._marked()),
    b"\x8f": lambda _: StandIn("set"),
    b"\x91": lambda m: StandIn(f"frozenset of {len(m._marked())}"),
    b"2": lambda m: m._stack[-1],
    b"g": lambda m: m._memo[int(m._line())],
    b"h": lambda m: m._memo[m._number(1)],
    b"j": lambda m: m._memo[m._number(4)],
    b"c": lambda m: m._named(m._line(), m._line()),
    b"\x93": lambda m: m._named(*m._top(2)),
    b"R": lambda m: m._called(*m._top(2)),
    b"\x81": lambda m: StandIn(m._top(2)[0].name),
    b"\x92": lambda m: StandIn(m._top(3)[0].name),
    b"o": lambda m: StandIn(m._marked()[0].name),
    b"Q": lambda m: m._storage(*m._top(1)),
}
_ACTIONS: dict[bytes, Callable[[PickleMachine], Any]] = {
    b"\x80": lambda m: m._take(1),  # protocol
    b"\x95": lambda m: m._take(8),  # frame
    b"(": lambda m: m._marks.append(len(m._stack)),
    b"0": lambda m: (m._marks if m._marks[-1:] == [len(m._stack)] else m._stack).pop(),
    b"1": lambda m: m._marked(),
    b"a": lambda m: m._add(list, m._top(1)),
    **dict.fromkeys((b"e", b"\x90"), lambda m: m._add(list, m._marked())),
    b"s": lambda m: m._add(dict, m._top(2)),
    b"u": lambda m: m._add(dict, m._marked()),
    b"b": lambda m: m._top(1),  # the state of an object: dictionaries have none of use, and others are stand-ins
    b"p": lambda m: m._remember(int(m._line())),
    b"q": lambda m: m._remember(m._number(1)),
    b"r": lambda m: m._remember(m._number(4)),
    b"\x94": lambda m: m._remember(len(m._memo)),
}
