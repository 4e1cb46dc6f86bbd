"""Read a pickle without importing, calling or building anything that it names.

A small machine with the opcodes of pickle's protocols 0 to 5. Its values are plain Python values, references to
tensors, and stand-ins for objects of known harmless classes; any other class ends the reading. Each opcode costs a
constant, or what it takes from the file, so time and memory are bounded by the file's size: dictionaries keep only
short texts as keys, since the hash of nested tuples takes time exponential in their depth.
"""

import math
import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any

from flagai.checkpoint.formats.pickle_stack import PickleStack
from flagai.checkpoint.formats.pickle_values import (
    MOST_DIMENSIONS,
    DamagedPickleError,
    Name,
    StandIn,
    StorageReference,
    TensorReference,
    UnsafePickleError,
    is_short,
)

# Models of ours have 40 opcodes for each of at most a few thousand tensors.
_MOST_OPCODES = 2_000_000


class PickleMachine(PickleStack):
    """Reads pickles from a buffer, one after the other.

    Args:
        buffer: the bytes.
        is_harmless: whether a class or function of this name may occur.
        start: where the first pickle begins.
        end: where the bytes end; default the buffer's end.

    Attributes:
        storages: every storage that was named so far, by key.
        at: where the next pickle begins.
    """

    def __init__(
        self, buffer: bytes | mmap, is_harmless: Callable[[str], bool], start: int = 0, end: int | None = None
    ) -> None:
        super().__init__(buffer, start, end)
        self.storages: dict[str, StorageReference] = {}
        self._is_harmless = is_harmless
        self._left = _MOST_OPCODES

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            DamagedPickleError: the bytes are no pickle.
            UnsafePickleError: the pickle names something that is not known to be harmless.
        """
        self.clear()
        try:
            while (code := self.take(1)) != b".":
                self._left -= 1
                action = _ACTIONS.get(code)
                if action is None or self._left < 0:
                    self.fail(f"opcode {code!r}" if self._left >= 0 else "too many opcodes")
                action(self)
            return self.stack.pop()
        except (DamagedPickleError, UnsafePickleError):
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise DamagedPickleError(f"at byte {self.at}: {error!r:.100}") from error

    def push_name(self, module: Any, name: Any) -> None:
        """Push a class or function, by name.

        Raises:
            UnsafePickleError: it is not known to be harmless.
        """
        if not is_short(module) or not is_short(name):
            self.fail("a class without a name of fewer than 1,000 characters")
        full = f"{module}.{name}"
        if not self._is_harmless(full):
            raise UnsafePickleError(full)
        self.push(Name(full))

    def reduce(self) -> None:
        """Push what a call of a function would give: a dictionary, a tensor, or a stand-in."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self._result(function, arguments))

    def _result(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self.fail("a call of what is no function")
        if function.name == "collections.OrderedDict":
            pairs = arguments[0] if arguments else []
            self._left -= len(pairs)  # a list may be the argument of many calls
            return {pair[0]: pair[1] for pair in pairs if is_short(pair[0])}
        if function.name in _TENSOR_MAKERS:
            return self._tensor(function.name, arguments)
        if function.name in _PARAMETER_MAKERS:
            return arguments[0]
        if function.name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
            return self._result(arguments[0], arguments[2])
        return StandIn(function.name)

    def _tensor(self, function: str, arguments: tuple[Any, ...]) -> TensorReference:
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, StorageReference):
            self.fail("a tensor of what is no storage")
        if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
            self.fail(f"a tensor of {len(shape)} dimensions and {len(stride)} strides")
        self._left -= len(shape)  # the same tuple may be the shape of many tensors
        if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *shape, *stride)):
            self.fail("a tensor of impossible extents")
        if math.prod(extent or 1 for extent in shape) >= 2**62:
            self.fail("a tensor of too many values to count")
        dtype = arguments[6].name if function.endswith("_v3") else None
        return TensorReference(storage, offset, tuple(shape), tuple(stride), dtype)

    def build_new(self, *, named: bool) -> None:
        """Push a stand-in for a new object; its arguments are dropped."""
        if named:
            self.stack.pop()
        self.stack.pop()
        self.push(StandIn(self.stack.pop().name))

    def build_marked(self) -> None:
        """Push a stand-in for a new object whose class and arguments lie above the mark."""
        self.push(StandIn(self.marked()[0].name))

    def set_state(self) -> None:
        """Drop the state of an object: dictionaries have none of use, and others are stand-ins."""
        self.stack.pop()

    def push_storage(self) -> None:
        """Push the storage that a persistent id names."""
        key = self.stack.pop()
        if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or key[5:] not in ((), (None,)):
            self.fail("a persistent id that is no storage")
        _, kind, name, _, count = key[:5]
        if not is_short(name) or type(count) is not int or not 0 <= count < 2**62:
            self.fail("a storage without key or size")
        named = StorageReference(kind.name, name, count)
        if self.storages.setdefault(name, named) != named:
            self.fail(f"two storages with the key {name!r:.50}")
        self.push(named)


_TENSOR_MAKERS = frozenset(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
_PARAMETER_MAKERS = frozenset(f"torch._utils._rebuild_parameter{state}" for state in ("", "_with_state"))
_Machine = PickleMachine
_Action = Callable[[_Machine], Any]


def _integer(text: str) -> int | bool:
    return bool(int(text)) if text in ("00", "01") else int(text.removesuffix("L"))


def _constant(value: Any) -> _Action:
    return lambda m: m.push(value)


def _number(form: str) -> _Action:
    return lambda m: m.push_number(form)


def _text(size: int, encoding: str | None) -> _Action:
    return lambda m: m.push_text(size, encoding)


_UTF8, _LATIN1 = "utf-8", "latin-1"  # texts of Python 3, and of Python 2
_ACTIONS: dict[bytes, _Action] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"I": lambda m: m.push_line(_integer),
    b"L": lambda m: m.push_line(_integer),
    b"F": lambda m: m.push_line(float),
    b"S": lambda m: m.push_line(lambda text: text[1:-1]),
    b"V": lambda m: m.push_line(str),
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"G": _number(">d"),
    b"\x8a": lambda m: m.push_long(1),
    b"\x8b": lambda m: m.push_long(4),
    b"X": _text(4, _UTF8),
    b"\x8c": _text(1, _UTF8),
    b"\x8d": _text(8, _UTF8),
    b"T": _text(4, _LATIN1),
    b"U": _text(1, _LATIN1),
    b"B": _text(4, None),
    b"C": _text(1, None),
    b"\x8e": _text(8, None),
    b"\x96": _text(8, None),
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.marked,
    b"2": lambda m: m.push(m.stack[-1]),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": _constant(StandIn("set")),
    b"\x91": lambda m: m.push(StandIn(f"frozenset of {len(m.marked())}")),
    b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"l": lambda m: m.push(m.marked()),
    b"d": _Machine.push_dictionary,
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.marked()),
    b"\x90": lambda m: m.append(m.marked()),
    b"s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.set_items(m.marked()),
    b"g": lambda m: m.push_line(lambda text: m.memo[int(text)]),
    b"h": lambda m: m.push(m.memo[m.number(1)]),
    b"j": lambda m: m.push(m.memo[m.number(4)]),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"c": lambda m: m.push_name(m.line(), m.line()),
    b"\x93": lambda m: m.push_name(m.stack.pop(-2), m.stack.pop()),
    b"R": _Machine.reduce,
    b"\x81": lambda m: m.build_new(named=False),
    b"\x92": lambda m: m.build_new(named=True),
    b"o": _Machine.build_marked,
    b"b": _Machine.set_state,
    b"Q": _Machine.push_storage,
}
