"""What killed saves leave: temporary files and folders that no process holds any more."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Behind the name of what is saved, before eight random characters; no user calls a file of his own so.
MARK = ".saving-"
_TEMPORARY = re.compile(rf"\..+{re.escape(MARK)}[a-z0-9_]{{8}}")


def own(make: Callable[[], Path]) -> tuple[Path, int]:
    """Make something temporary and lock it, so that others see that its process lives.

    Args:
        make: makes the file or folder.

    Returns:
        Its path, and a descriptor: the lock ends when it is closed, or with the process.
    """
    while True:
        path = make()
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        with suppress(OSError):  # a file system without locks: nobody can take it for stale there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between these two steps another process may have swept it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return path, descriptor
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of processes that have ended.

    Args:
        folder: where to look, not below it.
    """
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name) and not entry.is_symlink()]
    for path in found:
        with suppress(OSError):
            _remove_stale(path)


def _remove_stale(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its process lives
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
