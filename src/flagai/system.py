"""What operating systems do differently: files, locks, cores, memory and the streams of a terminal."""

import ctypes
import errno
import gc
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)
WINDOWS = os.name == "nt"
LINUX = sys.platform.startswith("linux")
# How long a file that is open is waited for on Windows, in seconds: 2 in all.
_PAUSES = (0.01, 0.03, 0.06, 0.1, 0.3, 0.5, 1.0)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
T = TypeVar("T")


def open_descriptor(path: Path, flags: int) -> int:
    """A descriptor of a file, for bytes (Windows would translate line ends), which no other program inherits."""
    return os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def is_busy(error: OSError) -> bool:
    """Whether an error may say no more than that a file is open: Windows neither renames nor removes such a file."""
    return WINDOWS and isinstance(error, PermissionError)


def patiently(action: Callable[[], T]) -> T:
    """Rename or remove files; on Windows, again for two seconds while they are open.

    Another process may read them for a moment, or this one may hold a model that maps them and that no process uses.

    Raises:
        OSError: it cannot be done.
    """
    for pause in _PAUSES:
        try:
            return action()
        except PermissionError as error:
            if not is_busy(error):
                raise
            gc.collect()
            time.sleep(pause)
    return action()


def remove_file(path: Path) -> None:
    """Remove a file if it is there and, on Windows, no process has it open."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        if not is_busy(error):
            raise


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on the disk; some systems cannot open folders."""
    try:
        descriptor = open_descriptor(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_data(descriptor: int) -> None:
    """Put the content of an open file on the disk, and of its times no more than that needs."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def allocated(path: Path) -> int:
    """The bytes that a file takes on the disk; its length where the system does not tell."""
    found = path.stat()
    blocks: int | None = getattr(found, "st_blocks", None)
    return found.st_size if blocks is None else blocks * 512


@contextmanager
def locked(path: Path, *, needed: bool = False) -> Iterator[None]:
    """Hold a lock among the processes of this machine; its file is removed at the end.

    Args:
        path: the file of the lock.
        needed: whether a file system without locks is an error; else it is passed over with a warning.

    Raises:
        BlockingIOError: another process, or another thread, has it.
        OSError: its file cannot be made.
    """
    from filelock import FileLock, Timeout  # its import takes longer than most commands that need no lock

    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path)) from error
    except OSError as error:
        if needed or error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s has no locks; start no second process there.", path.parent)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: no process can have locked it since
        lock.release()
        if WINDOWS:
            with suppress(OSError):
                path.unlink()


def interruptibly(wait: Callable[[float], bool]) -> None:
    """Wait again and again until ``wait`` says that it is over: Windows hears of Ctrl-C only between two waits."""
    while not wait(1.0):
        pass


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """The memory of this machine."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    status = (ctypes.c_ulonglong * 8)(64)  # MEMORYSTATUSEX: its size and the load, the whole memory, what is free, ...
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]  # Windows only
    return int(status[1])


def use_utf8() -> None:
    """Read and write pipes and files in UTF-8 with plain line feeds, whatever the code page of the console.

    A terminal keeps its own encoding, which is UTF-8 on Windows; what it cannot show is written as an escape.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        keeps = stream.isatty() and stream.encoding.lower() not in ("ascii", "us-ascii", "ansi_x3.4-1968")
        encoding = stream.encoding if keeps else "utf-8"
        if stream is sys.stdin:
            stream.reconfigure(encoding=encoding, errors="surrogateescape")
        else:
            stream.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")
