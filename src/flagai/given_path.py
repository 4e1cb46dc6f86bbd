"""Paths and names that a caller gives: checked in one place, before any file is touched."""

import os
from pathlib import Path
from typing import Any

from flagai.errors import InputError
from flagai.typed_json import shown

_LONGEST_NAME = 255  # bytes; the limit of the usual file systems


def given_path(value: Any, argument: str) -> Path:
    """A path that a caller gave, with the home folder expanded.

    Args:
        value: the argument.
        argument: its name, for messages.

    Raises:
        InputError: it is neither a text nor a path, or no file system has such a name.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{argument} is {shown(value)}; expected a text or a path.")
    try:
        path = Path(value).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (TypeError, ValueError, RuntimeError) as error:  # bytes, half a character, the home of an unknown user
        raise InputError(f"{argument} is {shown(value)}, which is no path: {error}.") from error
    if "\0" in str(path) or longest > _LONGEST_NAME:
        raise InputError(f"{argument} is {shown(value)}; no file has a null character or over 255 bytes in its name.")
    return path
