"""The folder of a training's result: who may write it, and how a finished model gets there."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from flagai.checkpoint.atomic import link, replace_folder
from flagai.checkpoint.save import WEIGHT_FILES
from flagai.data.tokenizer.description import FILES
from flagai.data.tokenizer.saved import BESIDE
from flagai.errors import FlagAIError, InputError
from flagai.hub.names import MANIFEST

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
CURVE = "curve.svg"
CARD = "README.md"
_LOCK = "lock"
# What belongs to the model that is replaced; all other files of a folder stay.
_OF_A_MODEL = (
    *WEIGHT_FILES, "pytorch_model*.bin", "pytorch_model*.bin.index.json", "generation_config.json", MANIFEST,
    *{name for lists in FILES.values() for files in lists for name in files}, *BESIDE, LOG, CURVE, CARD,
)  # fmt: skip


def training_folder(out: Path) -> Path:
    """The folder beside ``out`` that a run works in until its result is whole; an InputError where there is none."""
    place = out.resolve()
    if not place.name or place == Path.cwd():
        raise InputError(f"{out} is the working directory or has no parent. Name a new folder for the result.")
    return place.with_name(f"{place.name}.training")


def finished_folder(folder: Path) -> Path:
    """What a training folder is called when its result is published, until it is removed."""
    return folder.with_name(f"{folder.name}.old")


def remove_own(folder: Path) -> None:
    """Remove a training folder; what tells that it is one goes last, so that the next run can go on with it."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _check_own(folder: Path) -> None:
    """Refuse to work in a folder of the user, whose files would be removed at the end."""
    if not (folder / _LOCK).is_file() and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is where a run for this --out works, but it holds files that no run wrote. Rename it, or choose "
            "another --out."
        )


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a file, and a folder that holds what this run did not write, unless ``overwrite`` is set.

    Raises:
        InputError: it is one.
    """
    try:
        folder = training_folder(out)
        for path in (out, folder):
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file, not a folder. Choose another name.")
        _check_own(folder)
        _check_own(finished_folder(folder))
        entries = out.iterdir() if out.is_dir() else ()
        found = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, a circle of links
        if isinstance(error, FlagAIError):
            raise
        raise InputError(f"{out} cannot be a folder: {error}. Choose another name.") from error
    if found and not overwrite and not _published(folder, out):
        finished = LOG in found and "config.json" in found
        what = "a model that a finished training wrote" if finished else f"files: {', '.join(found[:5])}"
        raise InputError(
            f"{out} already holds {what}. Choose another folder with --out, or replace the model in it with "
            "--overwrite."
        )


def _published(folder: Path, out: Path) -> bool:
    """Whether the run of this training folder has put its result there, and was cut off before it tidied up."""
    try:
        written = (folder / LOG).read_bytes()
        return bool(written) and written == (out / LOG).read_bytes()
    except OSError:
        return False


def publish(staged: Path, out: Path) -> None:
    """Exchange a whole model, on the same disk, for what is in ``out``, in one step; files of no model stay."""
    with replace_folder(out, drop=_OF_A_MODEL) as temporary:
        shutil.copytree(staged, temporary, dirs_exist_ok=True, copy_function=link)


def put_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a tokenizer's files, as they were when the training began: the folder needs no base model then."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


class RunLock:
    """Held by the one run that writes a training folder; the system gives it back when its process ends.

    Args:
        folder: the training folder; it is created.

    Raises:
        InputError: another run holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self._path)
        except BlockingIOError as error:
            raise InputError(
                f"Another run ({_owner(self._path)}) is writing {folder}. Wait for its end, or choose another --out."
            ) from error
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}. Choose another --out.") from error
        # Forked workers would hold the lock for longer than this process lives.
        held = weakref.ref(self._file)
        os.register_at_fork(after_in_child=lambda: (file := held()) and file.close())
        owner = {"process": os.getpid(), "host": socket.gethostname()}
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(owner))
        self._file.flush()

    def release(self) -> None:
        """Let others write."""
        self._file.close()


def _locked(path: Path) -> TextIO:
    """Open and lock a file, and make sure that it is still the one at this path: a finished run removes it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                logger.warning("%s has no locks; start no second run there.", path.parent)
                return file
            file.close()
            raise
        file.close()


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process"
