"""Processes that crash in the middle of a save, and the files that they leave."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

CRASH = 9
SHARDS = 9000  # bytes, of which the new model has three


def in_child(action: Callable[[], Any]) -> int:
    """Run something in a forked process and return its exit code (negative: the signal that ended it)."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crash(*_: Any, **__: Any) -> None:
    os._exit(CRASH)


def crash_after(function: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    left = iter(range(calls - 1, -1, -1))

    def run(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        return result if next(left) else crash()

    return run


def left(folder: Path) -> list[str]:
    return sorted(path.name for place in (folder, folder / "model") for path in place.glob(".*"))
