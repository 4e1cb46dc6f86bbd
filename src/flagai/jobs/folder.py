"""The folder of a job: what the job is, and which of its parts are done."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.checkpoint.atomic import replace_file
from flagai.errors import InputError
from flagai.jobs.parts import Part, split_format, to_json, write_rows
from flagai.system import locked
from flagai.typed_json import read_json

JOB_FILE = "job.json"
ERRORS = ".errors.jsonl"
_MODEL_FILE = ".model"
# So much of the beginning and of the end of a file identifies it, with its size.
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class JobDescription:
    """What a job computes: the same description gives the same files.

    Args:
        task: the task.
        arguments: its options, as they are typed.
        inputs: the files.
        form: the form of the files of answers, such as "jsonl.gz".
        rows: rows of a part.
    """

    task: str
    arguments: Sequence[str]
    inputs: Sequence[Path]
    form: str
    rows: int

    def content(self) -> dict[str, Any]:
        """What is written into the folder."""
        return {
            "task": self.task,
            "arguments": list(self.arguments),
            "inputs": [{"file": str(path), **_identity(path)} for path in self.inputs],
            "format": self.form,
            "rows of a part": self.rows,
        }


class OutputFolder:
    """Where the answers of a job go.

    A part is written whole or not at all: its file of answers appears last, after the errors of its rows. So a job that
    was stopped at any moment continues behind the parts that are there.

    Args:
        folder: the folder; it is created.
        job: what is computed.

    Raises:
        InputError: the folder has another job, or other files.
    """

    def __init__(self, folder: Path, job: JobDescription) -> None:
        self.folder = folder
        self._form, self._compression = split_format(job.form)
        content = job.content()
        if (folder / JOB_FILE).is_file():
            _check_same(folder, read_json(folder / JOB_FILE, InputError), content)
            return
        if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise InputError(f"--out {folder} holds other files. Name a new folder, or the one of a job to continue.")
        with replace_file(folder / JOB_FILE) as path:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")

    @contextmanager
    def exclusive(self, rank: int = 0) -> Iterator[None]:
        """Keep other processes out that would write the same parts.

        Args:
            rank: of this process, where several share the parts.

        Raises:
            InputError: one is at work.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / f".lock-{rank}"))
            except BlockingIOError as error:
                raise InputError(f"Another process works in {self.folder}. Wait for it, or stop it first.") from error
            yield

    def agree_on_model(self, model: str) -> None:
        """Refuse to mix the answers of two models, as where a default model could not be fetched for a while.

        Args:
            model: see :func:`flagai.jobs.answering.model_identity`.

        Raises:
            InputError: the folder has answers of another one.
        """
        place = self.folder / _MODEL_FILE
        if not place.exists():
            with replace_file(place) as path:
                path.write_text(model, encoding="utf-8", newline="\n")
        found = place.read_text(encoding="utf-8")
        if found != model:
            raise InputError(
                f"{self.folder} has answers of another model ({found}; now {model}). Name that one by --model, or "
                "take another folder."
            )

    def file_of(self, part: Part) -> Path:
        """The file of a part's answers."""
        return self.folder / f"{part.name}{self._form}{self._compression}"

    def is_done(self, part: Part) -> bool:
        """Whether a part has been written."""
        return self.file_of(part).exists()

    def write(self, part: Part, rows: Sequence[dict[str, Any]], errors: Sequence[Mapping[str, Any]]) -> None:
        """Write the answers of a part, and first which rows failed.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        failed = self.folder / f"{part.name}{ERRORS}"
        if errors:
            with replace_file(failed) as path:
                path.write_text("".join(f"{to_json(error)}\n" for error in errors), encoding="utf-8", newline="\n")
        with replace_file(self.file_of(part)) as path, path.open("wb") as target:
            write_rows(target, rows, self._form, self._compression)


def _is_foreign(path: Path) -> bool:
    return path.name[0] != "." and path.name != JOB_FILE


def _identity(path: Path) -> dict[str, Any]:
    """What tells a file from another one, without reading all of it."""
    try:
        with path.open("rb") as file:
            digest, size = hashlib.sha256(file.read(_SAMPLE)), os.fstat(file.fileno()).st_size
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return {"bytes": size, "sha256 of its ends": digest.hexdigest()}


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to continue another job.

    Raises:
        InputError: it is one; the message says what differs.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            before, now = found.get(name), value
            if isinstance(value, list) and isinstance(before, list):
                before, now = (
                    [each for each in before if each not in value],
                    [each for each in value if each not in before],
                )
            raise InputError(
                f"--out {folder} holds another job: its {name}: {before}; now: {now}. Name another folder, or repeat "
                f"the command of that job ({JOB_FILE})."
            )
