"""Write files and folders so that a crash leaves the old or the new, never half."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flagai.checkpoint.stale import MARK, own, sweep
from flagai.errors import InputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_OPEN_FILES = ("/dev", "/dev/fd")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends well.

    A pipe or a device, also standard output as ``/dev/stdout``, cannot be replaced: its own path is given.

    Args:
        path: the file to create or replace; of a symbolic link, its target. Its folder is created if it is absent.

    Raises:
        InputError: nothing can be written there, or the disk is full.
    """
    with _explained(path):
        stream = is_stream(path)
    if stream:
        with _room(path):
            yield path
        return
    with _explained(path):
        path = _target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary, lock = own(lambda: _made_file(path))
    try:
        with _room(path):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            sync(temporary)
        with _explained(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)
    sync(path.parent)


def _made_file(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}{MARK}", dir=path.parent)
    os.close(handle)
    return Path(name)


def is_stream(path: Path) -> bool:
    """Whether bytes written to a path go to a pipe, a device or a file that this process has open."""
    if not path.exists() or path.is_dir():
        return False
    parent = str(path.absolute().parent)
    opened = parent in _OPEN_FILES or (parent.startswith("/proc/") and parent.endswith("/fd"))
    return opened or not path.is_file()


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk is full or broken."""
    return error.errno in _FULL


def _resolved(path: Path) -> Path:
    """Where a path leads through symbolic links.

    Raises:
        OSError: nowhere.
    """
    try:
        return path.resolve()
    except RuntimeError as error:  # links in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    except ValueError as error:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error


def target_folder(path: Path) -> Path:
    """The folder that a path leads to, if it can be exchanged for another one.

    Raises:
        InputError: it is a file, or this process works in it and would be left in a folder that is gone.
        OSError: the path leads nowhere.
    """
    folder = _resolved(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file. Name a folder to save into.")
    with suppress(FileNotFoundError):  # the working directory is gone already
        if Path.cwd().is_relative_to(folder):
            raise InputError(
                f"{folder} is the working directory, or above it; it would be exchanged for a new folder. Name another "
                "folder, or work from elsewhere."
            )
    return folder


def _target(path: Path) -> Path:
    """The file that a path leads to through symbolic links."""
    found = _resolved(path)
    if found.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return found


@contextmanager
def _room(path: Path) -> Iterator[None]:
    """Say which file has no room where the disk is full."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise InputError(
            f"{path} cannot be written: {error.strerror}. Free some space, or choose another disk."
        ) from error


@contextmanager
def replace_folder(folder: Path, drop: tuple[str, ...] = ()) -> Iterator[Path]:
    """Give a temporary folder to write to; its files join or replace those of ``folder`` all at once.

    The temporary folder is a sibling, so the parent must be writable. Files of the old folder that are not
    written again stay (as hard links, not copies), except those that match ``drop``. Where the system cannot
    exchange two folders in one step, the old one is renamed aside first and put back on failure.

    Args:
        folder: the folder to create or update; what a symbolic link points to is updated, not the link.
        drop: patterns of file names that shall not be carried over.

    Raises:
        InputError: nothing can be written there, or a file is in the way.
    """
    with _explained(folder):
        folder = target_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        prefix = f".{folder.name}{MARK}"
        temporary, lock = own(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent)))
    try:
        temporary.chmod(folder.stat().st_mode & 0o7777 if folder.exists() else 0o777 & ~_umask())
        with _room(folder):
            yield temporary
            _open_to_all(temporary)
            if folder.exists():
                sweep(folder)
                _carry_over(folder, temporary, drop)
            sync_tree(temporary)
        with _explained(folder):
            _swap(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do where the system refuses the steps that make a save atomic."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error}. It is built under a temporary name beside the old one and then takes "
            f"its place, so {path.parent} must be writable and on the same disk. Choose another place."
        ) from error


def _carry_over(old: Path, new: Path, drop: tuple[str, ...]) -> None:
    for entry in old.iterdir():
        target = new / entry.name
        if target.exists() or any(entry.match(pattern) for pattern in drop):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=link)
        else:
            link(str(entry), str(target))


def link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; afterwards ``new`` is the old folder, or gone."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        aside = new.with_name(f"{new.name}-old")  # which no other process takes for stale
        folder.rename(aside)
        try:
            new.rename(folder)
        except OSError:
            aside.rename(folder)
            raise
        aside.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one atomic step where the system can (Linux)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _open_to_all(folder: Path) -> None:
    """Give files the permissions of any new file; some writers, such as safetensors', make them private."""
    mode = 0o666 & ~_umask()
    for entry in folder.iterdir():
        if entry.is_file() and not entry.is_symlink():
            entry.chmod(mode)


def _umask() -> int:
    """The permissions that new files do not get; Linux tells them, other systems only by a change for all threads."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)  # what another thread creates meanwhile is private, not open to all
    os.umask(mask)
    return mask


def sync_tree(folder: Path) -> None:
    """Bring a folder with all that is in it to the disk."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            sync_tree(entry)
        elif entry.is_file() and not entry.is_symlink():
            sync(entry)
    sync(folder)


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on the disk; some systems cannot open folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
