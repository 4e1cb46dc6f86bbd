"""Where answers go: JSON lines or a table, to a file, a pipe or the standard output."""

import csv
import gzip
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from flagai import settings
from flagai.checkpoint.atomic import is_stream, replace_file
from flagai.cli.common import to_json
from flagai.cli.formats import GZIP, TABLES, refuse_binary, suffix_of
from flagai.errors import InputError

STDOUT = Path("-")
Put = Callable[[Mapping[str, Any]], None]


def check_target(path: Path | None, *also: str) -> None:
    """Refuse a place where answers cannot go, before a model is loaded.

    Args:
        path: the file; None for none.
        *also: endings of arrays that the command writes.

    Raises:
        InputError: it is a folder, or its ending means a form that the command does not write.
    """
    if path is None or path == STDOUT:
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
    if path == STDOUT:
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
