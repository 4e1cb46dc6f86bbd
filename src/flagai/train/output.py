"""The folder of a training's result: who may write it, and how a finished model gets there."""

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from flagai.checkpoint.atomic import link, replace_folder
from flagai.checkpoint.save import WEIGHT_FILES
from flagai.data.tokenizer.description import FILES
from flagai.data.tokenizer.saved import BESIDE
from flagai.errors import FlagAIError, InputError
from flagai.hub.names import MANIFEST
from flagai.system import locked, patiently
from flagai.train.run_file import RECIPE_FILE

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
CURVE = "curve.svg"
CARD = "README.md"
ADAPTER = "adapter"  # the folder of a LoRA adapter, in that of the merged model
_LOCK = "lock"
# What belongs to the model that is replaced; all other files of a folder stay.
_OF_A_MODEL = (
    *WEIGHT_FILES, "pytorch_model*.bin", "pytorch_model*.bin.index.json", "generation_config.json", MANIFEST,
    *{name for lists in FILES.values() for files in lists for name in files}, *BESIDE, LOG, CURVE, CARD,
    RECIPE_FILE, ADAPTER,
)  # fmt: skip


class ResultFolder:
    """The folder of a training's result, and the one beside it that a run works in until its result is whole.

    Args:
        out: the folder of the result.
        overwrite: whether a model in it may be replaced.

    Raises:
        InputError: no folder can be there, or none beside it.
    """

    def __init__(self, out: Path, *, overwrite: bool) -> None:
        self.out, self.overwrite = out, overwrite
        self._lock = ExitStack()
        with _explained(out):
            place = out.resolve()
            if not place.name or place == Path.cwd():
                raise InputError(f"{out} is the working directory or has no parent. Name a new folder for the result.")
            self.training = place.with_name(f"{place.name}.training")
            self._finished = place.with_name(f"{place.name}.training.old")

    def check(self) -> None:
        """Refuse a file, and a folder that holds what this run did not write.

        Raises:
            InputError: it is one.
        """
        with _explained(self.out):
            for path in (self.out, self.training):
                if path.exists() and not path.is_dir():
                    raise InputError(f"{path} is a file, not a folder. Choose another name.")
            for folder in (self.training, self._finished):  # whose files would be removed at the end
                if not (folder / _LOCK).is_file() and folder.is_dir() and any(folder.iterdir()):
                    raise InputError(
                        f"{folder} is where a run for this --out works, but it holds files that no run wrote. Rename "
                        "it, or choose another --out."
                    )
            entries = self.out.iterdir() if self.out.is_dir() else ()
            found = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        if found and not self.overwrite and not self._is_published():
            finished = LOG in found and "config.json" in found
            what = "a model that a finished training wrote" if finished else f"files: {', '.join(found[:5])}"
            raise InputError(
                f"{self.out} already holds {what}. Choose another folder with --out, or replace the model in it with "
                "--overwrite."
            )

    def _is_published(self) -> bool:
        """Whether the run of this training folder has put its result there, and was cut off before it tidied up."""
        try:
            written = (self.training / LOG).read_bytes()
            return bool(written) and written == (self.out / LOG).read_bytes()
        except OSError:
            return False

    def lock(self) -> None:
        """Keep other runs from the training folder until :meth:`release`, or the end of this process.

        Raises:
            InputError: another run holds it, the folder cannot be written, or :meth:`check` refuses it.
        """
        self.check()
        path, beside = self.training / _LOCK, self.training.with_name(f".{self.training.name}.lock")
        self.release()
        try:
            self.training.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, which Windows would not rename while the lock is open.
            self._lock.enter_context(locked(beside))
            self.training.mkdir(exist_ok=True)
            path.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        except BlockingIOError as error:
            raise InputError(
                f"Another run ({_owner(path)}) is writing {self.training}. Wait for its end, or choose another --out."
            ) from error
        except OSError as error:
            raise InputError(f"{self.training} cannot be written: {error.strerror}. Choose another --out.") from error
        _remove(self._finished)
        self.check()  # again: another run may just have ended

    def release(self) -> None:
        """Let others write."""
        self._lock.close()

    def publish(self, staged: Path) -> None:
        """Exchange a whole model for what is in ``out``, in one step, and remove the training; other files stay."""
        with replace_folder(self.out, drop=_OF_A_MODEL) as temporary:
            shutil.copytree(staged, temporary, dirs_exist_ok=True, copy_function=link)
        # In one step: half a folder would be taken for a damaged checkpoint.
        _remove(patiently(lambda: self.training.rename(self._finished)))


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except FlagAIError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, a circle of links
        raise InputError(f"{out} cannot be a folder: {error}. Choose another name.") from error


def _remove(folder: Path) -> None:
    """Remove a training folder; what tells that it is one goes last, so that the next run can go on with it."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process"


def put_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a tokenizer's files, as they were when the training began: the folder needs no base model then."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
