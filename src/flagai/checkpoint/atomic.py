"""Write files and folders so that a crash leaves the old or the new, never half."""

import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from flagai.errors import InputError
from flagai.system import is_busy, locked, patiently, sync

# Behind the name of what is saved, before eight random characters; no user calls a file of his own so.
_MARK = ".saving-"
_LOCK = ".lock"
_TEMPORARY = re.compile(rf"\..+{re.escape(_MARK)}[a-z0-9_]{{8}}({re.escape(_LOCK)})?")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Names that are tried before a place counts as one where nothing can be written.
_MOST_TRIES = 100
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
        path = path if stream else _resolved(path)
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stream:
        with _explained(path, full_only=True):
            yield path
        return
    with _temporary(path, lambda new: new.touch(exist_ok=False)) as temporary:
        mode = temporary.stat().st_mode
        with _explained(path, full_only=True):
            yield temporary
            temporary.chmod(mode)  # some writers, such as safetensors', make files private
            sync(temporary)
        with _explained(path):
            patiently(lambda: temporary.replace(path))
    sync(path.parent)


@contextmanager
def replace_folder(folder: Path, drop: tuple[str, ...] = ()) -> Iterator[Path]:
    """Give a temporary folder to write to; its files join or replace those of ``folder`` all at once.

    The temporary folder is a sibling, so the parent must be writable. Files of the old folder that are not
    written again stay (as hard links, not copies), except those that match ``drop``. Where the system cannot
    exchange two folders in one step, the old one is renamed aside first and put back on failure.

    Args:
        folder: the folder to create or update; what a symbolic link points to is updated, not the link.
        drop: patterns of file names that are not carried over.

    Raises:
        InputError: nothing can be written there, or a file is in the way.
    """
    with _explained(folder):
        folder = target_folder(folder)
    with _temporary(folder, Path.mkdir) as temporary:
        mode = temporary.stat().st_mode & 0o666  # of a new file
        if folder.exists():
            temporary.chmod(folder.stat().st_mode & 0o7777)
        with _explained(folder, full_only=True):
            yield temporary
            for entry in temporary.iterdir():
                if entry.is_file() and not entry.is_symlink():
                    entry.chmod(mode)
            if folder.exists():
                _sweep(folder)
                _carry_over(folder, temporary, drop)
            sync_tree(temporary)
        with _explained(folder):
            _swap(temporary, folder)
        sync(folder.parent)


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A sibling of a path, with a lock by which other processes see that this one lives; what is left is removed."""
    with ExitStack() as stack:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            temporary = _locked(path, stack)
            stack.callback(_remove, temporary)
            make(temporary)
        yield temporary


def _locked(path: Path, stack: ExitStack) -> Path:
    """A name beside a path, locked until the end of a stack."""
    for _ in range(_MOST_TRIES):
        new = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}")
        with suppress(BlockingIOError):  # another process takes the lock's new file for what a killed one has left
            stack.enter_context(locked(_lock_of(new)))
            return new
    # Where no file can be made, some systems say that it is not there, which a lock takes for one that goes away.
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}{_LOCK}")


def _sweep(folder: Path) -> None:
    """Remove from a folder what killed saves have left: temporary files and folders that no process holds."""
    found = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name) and not path.is_symlink()]
    for path in {path.with_name(path.name.removesuffix(_LOCK)) for path in found}:
        with suppress(OSError), locked(_lock_of(path), needed=True):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
    """Where a path leads through symbolic links; an OSError if nowhere."""
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


@contextmanager
def _explained(path: Path, *, full_only: bool = False) -> Iterator[None]:
    """Say what to do where the disk is full, or the system refuses the steps that make a save atomic."""
    try:
        yield
    except OSError as error:
        if full_only and not is_full(error):
            raise
        said = f"{path} cannot be written: {error.strerror}. Free some space, or choose another disk."
        if not full_only and is_busy(error):
            said = (
                f"{path} cannot be written: {error}; Windows replaces no open file, and a model that was loaded "
                "from it maps it. Load that with mmap=False, end the program that has it open, or choose another place."
            )
        elif not full_only:
            said = (
                f"{path} cannot be written: {error}. It is built under a temporary name beside the old one and then "
                f"takes its place, so {path.parent} must be writable and on the same disk. Choose another place."
            )
        raise InputError(said) from error


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
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; afterwards ``new`` is the old folder, or gone."""
    if not folder.exists():
        patiently(lambda: new.rename(folder))
    elif not _exchange(new, folder):
        aside = new.with_name(f"{new.name}-old")  # which no other process takes for stale
        patiently(lambda: folder.rename(aside))
        try:
            patiently(lambda: new.rename(folder))
        except OSError:
            aside.rename(folder)
            raise
        patiently(lambda: aside.rename(new))


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


def sync_tree(folder: Path) -> None:
    """Bring a folder with all that is in it to the disk."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            sync_tree(entry)
        elif entry.is_file() and not entry.is_symlink():
            sync(entry)
    sync(folder)
