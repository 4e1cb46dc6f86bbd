"""Reading JSON that others wrote: bounded, strict, typed; every fault is an error that names file and field."""

import errno
import json
import math
import re
import reprlib
import stat
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from flagai.errors import ConfigError, FlagAIError

# Settings are small; vocabularies and indexes are not: their readers name another limit. Python objects take up to
# thirty times the size of their text.
SIZE_LIMIT = 8 << 20
# What our own writers and transformers' nest is below ten levels.
DEPTH_LIMIT = 100

_Default = TypeVar("_Default")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel, _SHORTENED.maxstring, _SHORTENED.maxother = 2, 120, 120


def shown(value: Any) -> str:
    """The ``repr`` of a value, shortened for a message."""
    text = _SHORTENED.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def read_json(path: Path, error: type[FlagAIError] = ConfigError, *, limit: int = SIZE_LIMIT) -> dict[str, Any]:
    """Read a JSON file that must hold an object; a byte order mark is accepted.

    Raises:
        FlagAIError: of the class ``error``: the file cannot be read, is too large, is not JSON or not an object.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as problem:  # ValueError: no file can have this name
        raise error(f"{path} cannot be read ({getattr(problem, 'strerror', None) or problem}).") from problem
    if len(data) > limit:
        raise error(f"{path} is larger than {limit:,} bytes, too large for what it should hold. Download it again.")
    content = parse_json(data, str(path), error)
    if not isinstance(content, dict):
        raise error(
            f"{path} holds a JSON {type(content).__name__} where an object is expected. Download it again or repair it."
        )
    return content


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read bytes, but nothing that may never end, such as a pipe or a device.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb")


def parse_json(
    data: bytes | str,
    place: str,
    error: type[FlagAIError] = ConfigError,
    cure: str = "Download it again or repair it.",
) -> Any:
    """Parse JSON strictly: no name twice in an object, only finite numbers, only valid Unicode, few levels.

    Args:
        data: the text, or its bytes in UTF-8.
        place: where it comes from, for messages.
        error: the class of the errors.
        cure: what to do then.

    Raises:
        FlagAIError: of the class ``error``: it is not such JSON.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        check_depth(content)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as problem:
        raise error(f"{place} is not valid JSON for us: it is nested too deeply. Repair it.") from problem
    except ValueError as problem:
        raise error(f"{place} is not valid JSON ({problem!s:.200}). {cure}") from problem
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shown(twice)} occurs twice in an object")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is larger than any number")
    return value


def check_depth(content: Any) -> None:
    """Refuse parsed JSON with more levels than any of ours; Python from 3.12 on parses thousands.

    Raises:
        ValueError: it is nested too deeply.
    """
    level = [content]
    for _ in range(DEPTH_LIMIT):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH_LIMIT} levels deep")


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


# -- values ---------------------------------------------------------------------------------------------------


def as_int(value: Any) -> int | None:
    """An integer, also written as 24.0 or "24"; None if it is not one."""
    number = as_float(value)
    if number is None or not number.is_integer():
        return None
    return int(value) if isinstance(value, Integral) else int(number)


def as_float(value: Any) -> float | None:
    """A finite number, also written as "1e-12"; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, Real | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_bool(value: Any) -> bool | None:
    """True or false, also written as 1 or 0; None if it is neither."""
    return bool(value) if isinstance(value, bool | int) and value in (0, 1) else None


class Fields:
    """Typed values of one JSON object; what is absent or null is the default.

    Example:
        >>> Fields({"n_layer": "12"}, "config.json").integer("n_layer", 0)
        12
    """

    def __init__(self, table: Mapping[str, Any], place: str, error: type[FlagAIError] = ConfigError) -> None:
        self.table = table
        self.place = place
        self.error = error

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise an error that names the place and the field.

        Raises:
            FlagAIError: always, of the class ``error``.
        """
        raise self.error(f"{self.place}, {name:.120}: {message}")

    def wrong(self, name: str, wanted: str) -> NoReturn:
        """Raise an error that says what the field holds and what was expected.

        Raises:
            FlagAIError: always, of the class ``error``.
        """
        self.fail(name, f"{shown(self.table.get(name))} is not {wanted}.")

    def integer(self, name: str, default: _Default) -> int | _Default:
        """An integer."""
        value = self.table.get(name)
        number = as_int(value)
        return default if value is None else self.wrong(name, "an integer") if number is None else number

    def number(self, name: str, default: _Default) -> float | _Default:
        """A number."""
        value = self.table.get(name)
        number = as_float(value)
        return default if value is None else self.wrong(name, "a number") if number is None else number

    def flag(self, name: str, default: _Default) -> bool | _Default:
        """True or false."""
        value = self.table.get(name)
        flag = as_bool(value)
        return default if value is None else self.wrong(name, "true or false") if flag is None else flag

    def text(self, name: str, default: _Default) -> str | _Default:
        """A text."""
        value = self.table.get(name)
        return default if value is None else value if isinstance(value, str) else self.wrong(name, "a text")

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty by default."""
        value = self.table.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self.wrong(name, "a list of texts")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object; empty by default."""
        value = self.table.get(name)
        return {} if value is None else value if isinstance(value, dict) else self.wrong(name, "an object")
