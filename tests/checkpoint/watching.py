"""Notice what no reader of files may do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORBIDDEN = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "socket", "subprocess.Popen")
_watching: list[list[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (event.startswith(FORBIDDEN) or _runs_text(event, arguments) or _writes(event, arguments)):
        _watching[-1].append(f"{event} {arguments!r:.200}")


def _runs_text(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether code from a string is run, and not by a module that torch or a codec imports late."""
    where = {"exec": lambda: arguments[0].co_filename, "compile": lambda: arguments[1]}
    return event in where and str(where[event]()).startswith(("<", "None")) and not _is_importing()


def _is_importing() -> bool:
    frame = sys._getframe()
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wax+"))


sys.addaudithook(_watch)  # hooks stay until the interpreter ends; this one sleeps outside of `nothing_happens`


@contextmanager
def nothing_happens() -> Iterator[None]:
    _watching.append([])
    try:
        yield
    finally:
        events = _watching.pop()
    assert not events
