"""Where answers go: to the terminal, or as JSON lines or a table to a file, a pipe or the standard output."""

import csv
import gzip
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import typer

from flagai import settings
from flagai.checkpoint.atomic import is_stream, replace_file
from flagai.cli.formats import GZIP, STREAM, SURROGATE, TABLES, refuse_binary, suffix_of
from flagai.cli.input import InputText
from flagai.cli.options import TaskOptions
from flagai.errors import InputError

# Seconds between lines that say how far a command is, where no terminal shows a bar.
SECONDS_BETWEEN_LINES = 30.0
Put = Callable[[Mapping[str, Any]], None]
Answer = TypeVar("Answer")


def answer(
    entries: Sequence[InputText],
    compute: Callable[[list[InputText]], Sequence[Answer]],
    options: TaskOptions,
    *,
    as_fields: Callable[[Answer], dict[str, Any]],
    show: Callable[[InputText, Answer], None],
) -> None:
    """Work on texts in batches, and print or write every answer as soon as it is there.

    Args:
        entries: the texts.
        compute: makes the answers of a batch.
        options: the size of a batch, and where answers go; see :func:`open_table`.
        as_fields: an answer as fields of a JSON object.
        show: prints an answer for people.
    """
    answers = (
        pair for batch in in_batches(entries, options.batch_size) for pair in zip(batch, compute(batch), strict=True)
    )
    if options.out is not None:
        columns = dict.fromkeys(name for entry in entries for name in entry.fields)
        with open_table(options.out, list(columns)) as put:
            for entry, found in answers:
                put(entry.fields | as_fields(found))
        return
    for entry, found in answers:
        if options.as_json:
            print_json(entry.fields | as_fields(found))
        else:
            show(entry, found)


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


def to_json(entry: object) -> str:
    """A value as one line of JSON; lone surrogates, which no file can hold, stay escaped."""
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(entry, ensure_ascii=False))


def print_json(entry: object) -> None:
    """Print a value as one line of JSON."""
    typer.echo(to_json(entry))


def check_target(path: Path | None, *also: str) -> None:
    """Refuse a place where answers cannot go, before a model is loaded.

    Args:
        path: the file; None for none.
        *also: endings of arrays that the command writes.

    Raises:
        InputError: it is a folder, or its ending means a form that the command does not write.
    """
    if path is None or path == STREAM:
        return
    if os.path.isdir(path):  # also if no file can have this name
        raise InputError(f"--out {path} cannot be written: it is a folder. Name a file in it.")
    if path.suffix not in also:
        written = ".jsonl (JSON lines), .csv and .tsv, each also as .gz"
        refuse_binary(path, f"--out {path}", f"This command writes {', '.join([written, *also])}")


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
        separator = TABLES.get(suffix_of(path))
        yield _lines(text) if separator is None else _table(text, separator, columns)
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


def _table(target: IO[str], separator: str, columns: Sequence[str]) -> Put:
    """Rows under a header; lists and numbers that are no plain cell are written as JSON."""
    writer: csv.DictWriter[str] | None = None

    def put(row: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            # A .tsv file counts as quoted only if its header is (train/tables).
            quoting: Literal[0, 1] = csv.QUOTE_ALL if separator == "\t" else csv.QUOTE_MINIMAL
            names = [*dict.fromkeys([*columns, *row])]
            writer = csv.DictWriter(target, names, delimiter=separator, quoting=quoting)
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})

    return put


def _cell(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else to_json(value)
