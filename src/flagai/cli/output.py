"""Where answers go: to the terminal, or as JSON lines or a table to a file, a pipe or the standard output."""

import gzip
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import typer

from flagai import settings
from flagai.checkpoint.atomic import is_stream, replace_file
from flagai.cli.command import CALLED
from flagai.cli.formats import GZIP, STREAM, refuse_binary, suffix_of
from flagai.cli.input import accept_all
from flagai.cli.options import TaskOptions
from flagai.errors import InputError
from flagai.jobs.answering import Answering, InputText, model_identity, text_in
from flagai.jobs.folder import JobDescription, OutputFolder
from flagai.jobs.parts import Part, begin_table, to_json
from flagai.jobs.rows import SEPARATORS

# Seconds between lines that say how far a command is, where no terminal shows a bar.
SECONDS_BETWEEN_LINES = 30.0
# Texts whose answers are kept together, of a command that writes a file.
_PART = 1000
# Parameters of commands that change no answer.
_SAME_ANSWERS = ("context", "out", "device", "overwrite")
if TYPE_CHECKING:
    from flagai.model.predictor.predictor import Predictor
    from flagai.pipelines import TaskPipeline

Put = Callable[[Mapping[str, Any]], None]
Answer = TypeVar("Answer")


# Where a command puts how it answers instead of answering: see flagai.cli.jobs.
ASKED: ContextVar[list[Answering] | None] = ContextVar("asked", default=None)


def answer(
    entries: Sequence[InputText],
    compute: Callable[[list[InputText]], Sequence[Answer]],
    options: TaskOptions,
    *,
    as_fields: Callable[[Answer], dict[str, Any]],
    show: Callable[[InputText, Answer], None],
    runs: "Predictor | TaskPipeline",
    check: Callable[[InputText], None] = accept_all,
    read: Callable[[str, Any], InputText] | None = None,
    at_once: bool = False,
    save: Callable[[Iterator[dict[str, Any]]], None] | None = None,
) -> None:
    """Work on texts in batches, and print or write every answer as soon as it is there.

    Args:
        entries: the texts.
        compute: makes the answers of a batch.
        options: the size of a batch, and where answers go; see :func:`open_table`.
        as_fields: an answer as fields of a JSON object.
        show: prints an answer for people.
        runs: the model and its tokenizer.
        check: raises an InputError for a text that cannot be answered.
        read: makes a text of a place and fields; default of the field that the options name.
        at_once: whether ``compute`` takes any number of texts at once.
        save: writes fields and answers to the file, if it is not a table.
    """

    def checked(place: str, fields: Any) -> InputText:
        entry = text_in(place, fields, options.field) if read is None else read(place, fields)
        check(entry)
        return entry

    answering = Answering(
        checked,
        compute,
        as_fields,
        "text1" if read is not None else options.field,
        None if at_once else options.batch_size,
        getattr(options, "num_return_sequences", 1),
        lambda texts: sum(map(len, runs.tokenizer.encode_many(texts))) if texts else 0,
        model_identity(runs.model),
    )
    asked = ASKED.get()
    if asked is not None:
        asked.append(answering)
        return
    if options.out is not None:
        rows = (_rows_in_parts if _is_long(entries, options) else _rows)(entries, answering, options)
        if save is not None:
            save(rows)
        else:
            columns = dict.fromkeys(name for entry in entries for name in entry.fields)
            with open_table(options.out, list(columns)) as put:
                for row in rows:
                    put(row)
        _forget_parts(options.out)
        return
    for entry, found in _answers(entries, answering, options):
        if options.as_json:
            print_json(entry.fields | as_fields(found))
        else:
            show(entry, found)


def _answers(
    entries: Sequence[InputText], answering: Answering, options: TaskOptions
) -> Iterator[tuple[InputText, Any]]:
    for batch in in_batches(entries, options.batch_size):
        yield from zip(batch, answering.compute(batch), strict=True)


def _rows(entries: Sequence[InputText], answering: Answering, options: TaskOptions) -> Iterator[dict[str, Any]]:
    return (entry.fields | answering.as_fields(found) for entry, found in _answers(entries, answering, options))


def _is_long(entries: Sequence[InputText], options: TaskOptions) -> bool:
    """Whether answers are kept in parts, so that a command that is stopped continues when it is repeated."""
    files = options.file not in (None, STREAM) and options.out != STREAM and not is_stream(cast(Path, options.out))
    return files and len(entries) > _PART and settings.world_size() == 1


def _parts_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")


def _rows_in_parts(
    entries: Sequence[InputText], answering: Answering, options: TaskOptions
) -> Iterator[dict[str, Any]]:
    """Answers that are kept beside the file until it is complete; those of an interrupted command are not made anew."""
    name, values = CALLED.get()
    typed = [f"{option}={value}" for option, value in sorted(values.items()) if option not in _SAME_ANSWERS]
    job = JobDescription(name, typed, [cast(Path, options.file)], "jsonl", _PART)
    place = _parts_folder(cast(Path, options.out))
    try:
        folder = OutputFolder(place, job)
    except InputError as error:
        raise InputError(
            f"{error} These are answers of an interrupted command: remove {place} if you do not need them."
        ) from error
    with folder.exclusive():
        folder.agree_on_model(answering.model)
        parts = [Part(place, f"{begin:09d}", begin, ()) for begin in range(0, len(entries), _PART)]
        done = sum(map(folder.is_done, parts))
        if done:
            typer.echo(f"Continues behind {done * _PART} texts of an interrupted command ({place}).", err=True)
        for part in parts[done:]:
            own = entries[part.number : part.number + _PART]
            folder.write(part, list(_rows(own, answering, options)), ())
        for part in parts:
            with folder.file_of(part).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)


def _forget_parts(out: Path) -> None:
    if out != STREAM:
        shutil.rmtree(_parts_folder(out), ignore_errors=True)


def in_batches(entries: Sequence[InputText], batch_size: int) -> Iterator[list[InputText]]:
    """The texts in batches; a bar on a terminal, or a line every 30 seconds, says how far it is, once per machine."""
    batches = [list(entries[start : start + batch_size]) for start in range(0, len(entries), batch_size)]
    if len(batches) < 2 or settings.local_rank():
        yield from batches
    elif sys.stderr.isatty():
        yield from _with_bar(batches, len(entries))
    else:
        yield from _with_lines(batches, len(entries))


def _with_lines(batches: list[list[InputText]], total: int) -> Iterator[list[InputText]]:
    done, logged = 0, time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch)
        if done < total and time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            typer.echo(f"{done} of {total} texts", err=True)


def _with_bar(batches: list[list[InputText]], total: int) -> Iterator[list[InputText]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("texts", total=total)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))


def print_json(entry: object) -> None:
    """Print a value as one line of JSON."""
    typer.echo(to_json(entry))


def check_target(path: Path | None, *also: str, overwrite: bool = False) -> None:
    """Refuse a place where answers cannot go, before a model is loaded.

    Args:
        path: the file; None for none.
        *also: endings of arrays that the command writes.
        overwrite: whether a file with content may be replaced.

    Raises:
        InputError: it is a folder, or its ending means a form that the command does not write, or it holds something.
    """
    if path is None or path == STREAM:
        return
    if os.path.isdir(path):  # also if no file can have this name
        raise InputError(f"--out {path} cannot be written: it is a folder. Name a file in it.")
    if path.suffix not in also:
        written = ".jsonl (JSON lines), .csv and .tsv, each also as .gz"
        refuse_binary(path, f"--out {path}", f"This command writes {', '.join([written, *also])}")
    if not overwrite and path.is_file() and not is_stream(path) and path.stat().st_size:
        raise InputError(f"--out {path} is there already. Name another file, or add --overwrite to replace it.")


@contextmanager
def open_table(path: Path, columns: Sequence[str]) -> Iterator[Put]:
    """Open a file for answers; it appears whole when the block ends well, or not at all.

    Args:
        path: JSON lines, or a table (.csv, .tsv); with .gz behind it compressed; ``-`` is the standard output.
        columns: what the answers are added to: the fields of the input, for the header of a table.

    Raises:
        InputError: it cannot be written.
    """
    if path == STREAM:
        yield _lines(sys.stdout)
        return
    with open_bytes(path) as raw:
        packed = gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) if path.suffix == GZIP else raw
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        form = suffix_of(path)
        yield _table(text, form, columns) if form in SEPARATORS else _lines(text)
        text.flush()
        text.detach()
        if packed is not raw:
            packed.close()


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for bytes, as :func:`open_table` does; under torchrun only the first process writes.

    Raises:
        InputError: it cannot be written.
    """
    if settings.rank():
        yield io.BytesIO()
        return
    # A stream is appended to: it may be a file that the shell has begun (`>> file`).
    with replace_file(path) as place, place.open("ab" if is_stream(path) else "wb") as raw:
        yield raw


def _lines(target: IO[str]) -> Put:
    def put(row: Mapping[str, Any]) -> None:
        target.write(to_json(row) + "\n")

    return put


def _table(target: IO[str], form: str, columns: Sequence[str]) -> Put:
    """Rows under a header, which the first row completes."""
    write: Put | None = None

    def put(row: Mapping[str, Any]) -> None:
        nonlocal write
        write = write or begin_table(target, [*dict.fromkeys([*columns, *row])], form)
        write(row)

    return put
