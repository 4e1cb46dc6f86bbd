"""Checks of a caller's arguments; each error names the argument, before any work begins."""

import importlib.util
import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from flagai.absent import install_hint
from flagai.errors import InputError
from flagai.typed_json import shown

_LONGEST_NAME = 255  # bytes; the limit of the usual file systems


def check_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of an extra, before any of them is imported.

    Args:
        extra: its name in pyproject.toml.
        *modules: the modules that it brings.

    Raises:
        InputError: one is not installed.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"This needs {', '.join(missing)}. {install_hint(extra)}")


def check_flag(name: str, value: Any) -> None:
    """Refuse a value that is neither True nor False, which Python would take as one of them in silence.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.80}; expected True or False.")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False, integer: bool = False
) -> int | float:
    """An argument that must be a number of a range; numpy's numbers serve too.

    Args:
        name: the argument's name, for messages.
        value: the argument.
        low: the smallest number.
        high: the largest number.
        above: whether ``low`` itself is refused.
        integer: whether only integers are numbers here.

    Raises:
        InputError: it is of another type, or out of the range.
    """
    kind = "an integer" if integer else "a number"
    if isinstance(value, bool) or not isinstance(value, Integral if integer else Real):
        raise InputError(f"{name} is {value!r:.80}; expected {kind}.")
    number = int(value) if isinstance(value, Integral) else float(value)
    if not low <= number <= high or (above and number == low):
        most = f" and at most {high:,.0f}" if high < math.inf else ""
        least = f"{'more than' if above else 'at least'} {low:,}"
        raise InputError(f"{name} is {value!r:.80}; expected {kind}, {least}{most}.")
    return number


def check_integer(name: str, value: Any, low: int = 1, high: float = math.inf) -> int:
    """An argument that must be an integer of a range.

    Raises:
        InputError: it is of another type, or out of the range.
    """
    return int(check_number(name, value, low, high, integer=True))


def check_path(name: str, value: Any) -> Path:
    """An argument that must be a path, with the home folder expanded.

    Raises:
        InputError: it is neither a text nor a path, or no file system has such a name.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is {shown(value)}; expected a text or a path.")
    try:
        path = Path(value).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (TypeError, ValueError, RuntimeError) as error:  # bytes, half a character, the home of an unknown user
        raise InputError(f"{name} is {shown(value)}, which is not a path: {error}.") from error
    if "\0" in str(path) or longest > _LONGEST_NAME:
        raise InputError(f"{name} is {shown(value)}; no file has a null character or over 255 bytes in its name.")
    return path
