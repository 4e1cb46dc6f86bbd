"""The bytes and the stack of a machine that reads pickles: every part of it that knows no classes."""

import struct
from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any, NoReturn

from flagai.checkpoint.formats.pickle_values import DamagedPickleError, StandIn, is_short

_LONGEST_LINE = 4096


class PickleStack:
    """Takes values from a buffer and arranges them on a stack.

    Args:
        buffer: the bytes.
        start: the first byte to read.
        end: where the bytes end; default the buffer's end.

    Attributes:
        at: the next byte.
        stack: the values.
        memo: values that the pickle may ask for again, by index.
    """

    def __init__(self, buffer: bytes | mmap, start: int = 0, end: int | None = None) -> None:
        self.at = start
        self._buffer = buffer
        self._end = len(buffer) if end is None else end
        self.clear()

    def clear(self) -> None:
        """Forget all values, before a pickle."""
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def fail(self, reason: str) -> NoReturn:
        """Refuse the pickle.

        Raises:
            DamagedPickleError: always.
        """
        raise DamagedPickleError(f"at byte {self.at}: {reason}")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        begin, self.at = self.at, self.at + count
        if count < 0 or self.at > self._end:
            self.fail("the pickle is cut short")
        return self._buffer[begin : self.at]

    def number(self, size: int) -> int:
        """The next bytes as an unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """The text up to the next line feed."""
        limit = min(self._end, self.at + _LONGEST_LINE)
        found = self._buffer.find(b"\n", self.at, limit)
        if found < 0:
            self.fail("a line without an end")
        line = self.take(found - self.at + 1)
        return line[:-1].decode("latin-1")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Take the values above the last mark."""
        begin = self._marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def mark(self) -> None:
        """Remember the stack's height."""
        self._marks.append(len(self.stack))

    def pop(self) -> None:
        """Drop the top of the stack, or a mark that lies on it."""
        if self._marks and self._marks[-1] == len(self.stack):
            self._marks.pop()
        else:
            self.stack.pop()

    def push_line(self, read: Callable[[str], Any]) -> None:
        """Push what a line of text means."""
        self.push(read(self.line()))

    def push_number(self, form: str) -> None:
        """Push a number of fixed size."""
        self.push(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def push_long(self, size: int) -> None:
        """Push a whole number of any size."""
        self.push(int.from_bytes(self.take(self.number(size)), "little", signed=True))

    def push_text(self, size: int, encoding: str | None) -> None:
        """Push a text, or without an encoding bytes."""
        data = self.take(self.number(size))
        self.push(data if encoding is None else data.decode(encoding, "surrogatepass"))

    def push_tuple(self, count: int) -> None:
        """Join the upper values into a tuple."""
        if len(self.stack) < count:
            self.fail("an empty stack")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(values)

    def remember(self, index: int) -> None:
        """Note the top of the stack."""
        self.memo[index] = self.stack[-1]

    def append(self, values: Sequence[Any]) -> None:
        """Add to the list on the stack; what a stand-in gets is dropped."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, StandIn):
            self.fail("values added to what is no list")

    def push_dictionary(self) -> None:
        """Push a dictionary of what lies above the last mark."""
        values = self.marked()
        self.push({})
        self.set_items(values)

    def set_items(self, values: Sequence[Any]) -> None:
        """Add keys and values to the dictionary on the stack; only keys of text are kept."""
        target = self.stack[-1]
        if isinstance(target, dict):
            pairs = zip(values[::2], values[1::2], strict=False)
            target.update({key: value for key, value in pairs if is_short(key)})
        elif not isinstance(target, StandIn):
            self.fail("items set in what is no dictionary")
