"""Another operating system, as far as Python shows it: what it lacks is gone, and what it refuses raises its error.

``install("windows")`` or ``install("macos")`` changes this process for good, so it belongs into processes of its own:
the sitecustomize module of ``processes.py`` calls it in them and in all that they start. Code of flagai gets the other
system's ``os``, all code its rules for files; threads, sockets and the start of processes stay Linux's.
"""

import builtins
import ctypes
import errno
import fcntl
import io
import os
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import filelock

import flagai.system

GONE = {
    "windows": (
        "pwrite pread preadv pwritev readv writev fdatasync fork forkpty register_at_fork sched_getaffinity sysconf "
        "posix_fadvise posix_fallocate getuid geteuid getgid uname fchmod fchown chown mkfifo killpg setsid getpgid "
        "nice getloadavg sendfile pipe2 O_CLOEXEC O_NONBLOCK O_DIRECTORY O_NOFOLLOW O_SYNC O_DSYNC"
    ),
    "macos": "fdatasync sched_getaffinity sched_setaffinity posix_fadvise memfd_create pipe2",
}
MODULES = {"windows": ("fcntl", "resource", "pwd", "grp", "termios", "readline", "pty", "tty"), "macos": ()}
O_BINARY = 1 << 29
_FORBIDDEN = re.compile(r'[<>:"|?*]|[ .]$|(?i:^(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$))')
_OURS = ("flagai", "__main__")
_REAL = types.SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})


def install(system: str) -> None:
    """Take away what a system lacks."""
    _ = filelock.FileLock  # which has an implementation for each system, here Linux's
    gone = frozenset(GONE[system].split())

    class Os(types.ModuleType):
        """The module as code of flagai sees it; other libraries ask for the platform, which stays Linux."""

        def __getattribute__(self, name: str) -> Any:
            if name in gone and sys._getframe(1).f_globals.get("__name__", "").startswith(_OURS):
                raise AttributeError(f"module 'os' has no attribute {name!r}")
            return super().__getattribute__(name)

    os.__class__ = Os
    for name in MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment]
    flagai.system.LINUX = False
    _hide_proc()
    if system == "windows":
        flagai.system.WINDOWS = True
        _windows_files()
        _windows_names()
        _windows_libraries()
    else:
        real = ctypes.CDLL
        ctypes.CDLL = lambda name, *rest, **more: types.SimpleNamespace() if name is None else real(name, *rest, **more)  # type: ignore[misc,assignment]


def _hide_proc() -> None:
    opened = io.open

    def guarded(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "this system has no /proc", str(file))
        return opened(file, *arguments, **options)

    io.open = builtins.open = guarded  # type: ignore[assignment]


def is_open(path: Any) -> bool:
    """Whether this process has a file open or mapped, or one in a folder."""
    whole = os.path.realpath(path)
    if ".filelock-probe-" in whole:  # how it asks Linux for locks
        return False
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    with _REAL.fdopen(_REAL.open("/proc/self/maps", os.O_RDONLY), encoding="utf-8", errors="replace") as maps:
        names += [line.split(maxsplit=5)[5].rstrip("\n") for line in maps if line.count("/")]
    return any(name == whole or name.startswith(f"{whole}/") for name in names)


def _in_use(path: Any) -> PermissionError:
    return PermissionError(errno.EACCES, "The process cannot access the file, it is being used by another", str(path))


class _Status:
    """What Windows tells of a file."""

    def __init__(self, found: os.stat_result) -> None:
        self._found = found

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("st_blocks", "st_blksize", "st_rdev", "__")):
            raise AttributeError(name)
        return getattr(self._found, name)

    def __getitem__(self, index: int) -> Any:
        return self._found[index]


def _rename(source: Any, target: Any, *, replaces: bool = False) -> None:
    if os.path.lexists(target) and (not replaces or os.path.isdir(target)):
        raise FileExistsError(errno.EEXIST, "The file exists", str(target))
    for path in (source, target):
        if os.path.lexists(path) and is_open(path):
            raise _in_use(path)
    _REAL.rename(source, target)


def _unlink(path: Any, *, dir_fd: int | None = None) -> None:
    if os.path.lexists(path) and is_open(path):
        raise _in_use(path)
    _REAL.unlink(path)


def _open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    caller = sys._getframe(1).f_globals.get("__name__", "")
    assert flags & O_BINARY or not caller.startswith("flagai") or str(path) == os.devnull, "a file in text mode"
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return int(_REAL.open(path, flags & ~O_BINARY, mode))


def _fsync(descriptor: int) -> None:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _REAL.fsync(descriptor)


def _symlink(_source: Any, target: Any, *_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client", str(target))


def _windows_files() -> None:
    """Files that are open are neither renamed nor removed; folders are not opened."""
    replaced: dict[str, Any] = {
        "O_BINARY": O_BINARY,
        "rename": _rename,
        "replace": lambda source, target: _rename(source, target, replaces=True),
        "unlink": _unlink,
        "remove": _unlink,
        "open": _open,
        "fsync": _fsync,
        "symlink": _symlink,
        "stat": lambda *given, **more: _Status(_REAL.stat(*given, **more)),
        "fstat": lambda descriptor: _Status(_REAL.fstat(descriptor)),
    }
    for name, value in replaced.items():
        setattr(os, name, value)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def _windows_names() -> None:
    """Names that Windows forbids cannot be made; text files end lines as Windows does."""
    opened, mkdir = io.open, os.mkdir

    def checked(path: Any) -> None:
        name = "" if isinstance(path, int) else Path(os.fsdecode(path)).name
        if _FORBIDDEN.search(name):
            raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", str(path))

    def open_(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *more: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            checked(file)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        assert "b" in mode or encoding or not caller.startswith("flagai"), f"{file} in the encoding of the code page"
        text = opened(file, mode, buffering, encoding, *more, **options)
        newline = more[1] if len(more) > 1 else options.get("newline")
        if "b" not in mode and set(mode) & set("wa") and newline is None:
            text.reconfigure(newline="\r\n")
        return text

    io.open = builtins.open = open_  # type: ignore[assignment]
    os.mkdir = lambda path, *given, **more: (checked(path), mkdir(path, *given, **more))[1]  # type: ignore


def _windows_libraries() -> None:
    real = ctypes.CDLL

    def load(name: Any, *given: Any, **more: Any) -> Any:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        return real(name, *given, **more)

    def memory_status(reference: Any) -> int:
        reference._obj[1] = 8 << 30
        return 1

    ctypes.CDLL = load  # type: ignore[misc,assignment]
    ctypes.windll = types.SimpleNamespace(  # type: ignore[attr-defined]
        kernel32=types.SimpleNamespace(GlobalMemoryStatusEx=memory_status)
    )
