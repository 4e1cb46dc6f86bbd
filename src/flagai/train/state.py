"""Checkpoints and log of a running training: all that the next step depends on, kept whole or not at all."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from flagai.checkpoint.atomic import sync_tree
from flagai.checkpoint.out_of_memory import is_out_of_memory
from flagai.errors import CheckpointError, FlagAIError, InputError
from flagai.system import patiently, sync
from flagai.train.checksums import Files, check_files, list_files, prefix_digest, read_record, write_record
from flagai.train.engine import TrainingEngine
from flagai.train.needs import accelerate
from flagai.train.output import LOG, ResultFolder

_PROGRESS = "progress.json"
_KEYS = ("settings", "progress", "files", "best", "log")
_FAILURES = (OSError, RuntimeError, ValueError, SafetensorError, FlagAIError)
# A run may continue with other values of these: they change when it saves and how fast it is, not what it computes.
_FREE = ("save_every", "save_minutes", "workers")
T = TypeVar("T")
Entry = dict[str, Any]  # of the log


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0  # steps that are done
    tokens: int = 0  # tokens that were read
    best: float | None = None  # the best value of the metric so far; None before the first evaluation
    best_loss: float | None = None  # of that evaluation; decides between equal values
    best_step: int = 0  # when it was reached
    evaluations_without_gain: int = 0  # since then
    evaluated: int = 0  # the step of the last evaluation


class Log:
    """JSON lines, each with its ``step``, the same whether the run was interrupted or not; one process writes."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes

    def begin(self, size: int) -> None:
        """Keep so many bytes, and forget what an interrupted run wrote after its last checkpoint."""
        if self.writes:
            with self.path.open("ab") as file:
                file.truncate(size)

    def add(self, entry: Entry) -> None:
        """Write a line.

        Raises:
            CheckpointError: the disk is full, or cannot be written.
        """
        if not self.writes:
            return
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written: {error.strerror}. Make room on the disk; the same command continues "
                "from the last checkpoint."
            ) from error

    def size(self) -> int:
        """The length in bytes, all of which are on the disk then."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def entries(self) -> list[Entry]:
        """All lines."""
        # Not by typed_json: a loss may be NaN. The checkpoint has the checksum of the file.
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").split("\n") if line]


class States:
    """The checkpoints of a run, its log and its best model, in the folder ``OUT.training`` until the run is finished.

    A checkpoint of a run with other settings is refused, unless ``overwrite`` is set, as is a model in ``out``.
    """

    def __init__(
        self, out: Path, accelerator: Any, engine: TrainingEngine, settings: dict[str, Any], *, overwrite: bool = False
    ) -> None:
        self._result = ResultFolder(out, overwrite=overwrite)
        self.folder = self._result.training
        self.accelerator, self.engine = accelerator, engine
        # As they are after reading them from the file again.
        self.settings = json.loads(json.dumps(settings))
        self.log = Log(self.folder / LOG, writes=accelerator.is_main_process)
        self._best: Files = {}

    def load(self) -> Progress:
        """Lock the folder, and continue from the newest checkpoint, or begin; the errors of :meth:`Trainer.resume`."""
        try:
            found = self._on_first(self._newest)
            if found is None:
                return Progress()
            try:
                self.engine.load(found[0])
            except (*_FAILURES, KeyError, TypeError, AttributeError, EOFError) as error:
                if is_out_of_memory(error):
                    raise
                raise self._damaged(found[0], f"it cannot be read: {type(error).__name__}: {error}.") from error
            return Progress(**found[1]["progress"])
        except BaseException:
            self.release()
            raise

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint and its record, all files of which were checked."""
        self._result.lock()
        found = self._all()
        content = self._checked(found[-1]) if found else None
        if content is None:
            self._remove_folders()
            self.log.begin(0)
            return None
        self.log.begin(content["log"]["size"])
        self._best = content["best"]
        return found[-1], content

    def _checked(self, folder: Path) -> dict[str, Any] | None:
        """The record of a sound checkpoint; None for one of another run that is overwritten."""
        try:
            content = read_record(folder / _PROGRESS, _KEYS)
        except CheckpointError as error:
            raise self._damaged(folder, str(error)) from error
        different = [
            f"{name} was {content['settings'].get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if name not in _FREE and content["settings"].get(name) != value
        ]
        if different and self._result.overwrite:
            return None
        if different:
            raise InputError(
                f"{self.folder} has an unfinished training with other settings: {'; '.join(different)}. "
                "Use the same ones to continue it, or remove the folder (or add --overwrite) to begin anew."
            )
        faults = self._faults(folder, content)
        if faults:
            raise self._damaged(folder, "; ".join(faults[:5]) + ".")
        return content

    def _faults(self, folder: Path, content: dict[str, Any]) -> list[str]:
        if set(content["progress"]) != {field.name for field in fields(Progress)}:
            return [f"{folder / _PROGRESS} was written by another version of flagai"]
        faults = check_files(folder, content["files"])
        faults += check_files(self._best_folder(content["progress"]["best_step"]), content["best"])
        try:
            intact = prefix_digest(self.log.path, content["log"]["size"]) == content["log"]["sha256"]
        except OSError:
            intact = False
        return faults if intact else [*faults, f"{self.log.path} is absent or has other content than was written"]

    def _damaged(self, folder: Path, why: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint {folder} is damaged: {why} Restore it from a backup, or remove {self.folder} to begin "
            "anew."
        )

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; a crash or a full disk leaves the one before.

        Raises:
            CheckpointError: it cannot be written.
        """
        new = self.folder / f"step-{progress.step:08d}"
        while new.exists():  # of this very step, which counts until the new one is whole
            new = new.with_name(f"{new.name}+")
        unfinished = new.with_name(f"{new.name}.part")
        self._write(unfinished, self.engine.save, lambda: self._seal(unfinished, new, progress))

    def _seal(self, unfinished: Path, new: Path, progress: Progress) -> None:
        """Make a checkpoint count: all data is on the disk before its record, and the record before its name."""
        files = list_files(unfinished)
        sync_tree(unfinished)
        size = self.log.size()
        content = {
            "settings": self.settings,
            "progress": asdict(progress),
            "files": files,
            "best": self._best,
            "log": {"size": size, "sha256": prefix_digest(self.log.path, size)},
        }
        write_record(unfinished / _PROGRESS, content)
        patiently(lambda: unfinished.rename(new))
        sync(self.folder)
        self._remove_folders(new, self._best_folder(progress.best_step))

    def keep_best(self, step: int, add: Callable[[Path], None]) -> None:
        """Write the model as it is now; it counts from the next checkpoint on.

        Args:
            step: where the training stands.
            add: writes what belongs to the model beside its weights.

        Raises:
            CheckpointError: it cannot be written.
        """
        folder = self._best_folder(step)

        def complete() -> Files:
            add(folder)
            sync_tree(folder)
            return list_files(folder)

        self._best = self._write(folder, self.engine.write, complete)

    def publish(self, step: int, finish: Callable[[Path], None]) -> None:
        """Exchange the best model, which ``finish`` completes, for what is in ``out``; remove the checkpoints."""
        folder = self._best_folder(step)

        def exchange() -> None:
            if not folder.is_dir():
                return
            finish(folder)
            shutil.copyfile(self.log.path, folder / LOG)
            self._result.publish(folder)

        with self._alike(self._result.out):
            self._on_first(exchange)

    def release(self) -> None:
        """Let another run write the folder."""
        self._result.release()

    def _write(self, folder: Path, write: Callable[[Path], None], complete: Callable[[], T]) -> T:
        """Write a folder anew, all processes together; when all have, the first one completes it."""
        with self._alike(folder):
            self._on_first(lambda: shutil.rmtree(folder, ignore_errors=True))
            write(folder)
        with self._alike(folder):
            return self._on_first(complete)

    def _on_first(self, action: Callable[[], T]) -> T:
        """Run on the first process; all have its result, or raise its error."""
        outcome: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            try:
                outcome[0] = action()
            except _FAILURES as error:
                outcome[1] = error if isinstance(error, FlagAIError) else OSError(str(error))
        accelerate().utils.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    @contextlib.contextmanager
    def _alike(self, what: Path) -> Iterator[None]:
        """What cannot be written is one error, on all processes."""
        failure = None
        try:
            yield
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            failure = error
        reasons = accelerate().utils.gather_object([None if failure is None else str(failure)])
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            found = self._all()
            last = f"{found[-1]} is whole: the same command continues from it" if found else "No checkpoint was written"
            raise CheckpointError(
                f"{what} cannot be written: {reason} If the disk is full, make room. {last}."
            ) from failure

    def _best_folder(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{8}\+*", path.name))

    def _remove_folders(self, *kept: Path) -> None:
        for old in self.folder.iterdir():
            if old.is_dir() and old not in kept:
                shutil.rmtree(old, ignore_errors=True)
