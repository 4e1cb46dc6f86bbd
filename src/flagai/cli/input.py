"""The texts that a command is given: as arguments, in a file or on the standard input."""

import gzip
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flagai.cli.formats import GZIP, JSON_LINES, STREAM, refuse_binary, suffix_of
from flagai.cli.options import TaskOptions
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError
from flagai.jobs.answering import InputText, count_draws, text_in
from flagai.jobs.parts import SURROGATE
from flagai.jobs.rows import SEPARATORS

logger = logging.getLogger(__name__)

_LINES_NAMED = 5


# Rows of a job's first file while its command is only asked how it answers: see flagai.cli.jobs.
SAMPLES: ContextVar[Sequence[tuple[str, Any]] | None] = ContextVar("samples", default=None)


def accept_all(_: InputText) -> None:
    """A check that refuses no text."""


def read_entries(options: TaskOptions, check: Callable[[InputText], None] = accept_all) -> list[InputText]:
    """The texts that a command was given.

    Args:
        options: the command's.
        check: raises an InputError for a text that the command cannot answer.

    Raises:
        InputError: there are none, or a line of the file is broken; the message has its number.
    """
    entries = _entries(options)
    for entry in entries if SAMPLES.get() is None else ():  # a job lists the rows that fail
        check(entry)
    return count_draws(entries, getattr(options, "num_return_sequences", 1))


def _entries(options: TaskOptions) -> list[InputText]:
    field, file, samples = options.field, options.file, SAMPLES.get()
    if samples is not None:
        if options.texts or file or options.out or options.overwrite:
            raise InputError(
                "flagai run takes texts by --in and writes to a new --out: leave texts, --file and --overwrite out."
            )
        return [text_in(place, fields, field) for place, fields in samples if _has_text(fields, field)]
    if options.texts:
        if file is not None:
            raise InputError("Give texts as arguments or by --file, not both.")
        typed = [as_typed(text, f"Text {number}") for number, text in enumerate(options.texts, 1)]
        return [InputText(text, {field: text}, f"Text {number}") for number, text in enumerate(clean(typed), 1)]
    if file is None:
        if sys.stdin.isatty():
            raise InputError("There is no text. Give some as arguments, by --file, or on the standard input.")
        file = STREAM
    return [text_in(place, fields, field) for place, fields in read_rows(file, field)]


def _has_text(fields: Any, field: str) -> bool:
    return isinstance(fields, dict) and isinstance(fields.get(field), str)


def read_rows(file: Path, field: str) -> list[tuple[str, Any]]:
    """The objects of JSON lines, the rows of a table or the lines of a text, each with its place for messages.

    Args:
        file: the file, ``-`` for the standard input.
        field: under which name a line of a text is given.

    Raises:
        InputError: the file is of another form, or a line is broken; the message has its number.
    """
    refuse_binary(file, f"--file {file}", "Expected one text per line, JSON lines (.jsonl), .csv or .tsv")
    if suffix_of(file) in SEPARATORS:
        from flagai.train.records import read_records

        return [(record.place, dict(record.fields)) for record in read_records(file)]
    lines = read_lines(file)
    numbered = [(f"{_name(file)}, line {number}", line) for number, line in enumerate(lines, 1)]
    first = next((line for line in lines if line.strip()), "")
    if suffix_of(file) in JSON_LINES or first.startswith("{"):
        return [(place, _parsed(place, line)) for place, line in numbered if line.strip()]
    _tell_blank(file, lines)
    return [(place, {field: line}) for place, line in numbered]


def _parsed(place: str, line: str) -> Any:
    try:
        return json.loads(line)  # not typed_json: the fields of a line go back out as they are, also lone surrogates
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}. Expected one object per line.") from error


def _tell_blank(file: Path, lines: Sequence[str]) -> None:
    """Say which lines are blank: each counts as an empty text, so that answers stay beside their lines."""
    if not lines:
        logger.warning("%s holds no text", _name(file))
    blank = [str(number) for number, line in enumerate(lines, 1) if not line.strip()]
    if blank:
        more = f" and {len(blank) - _LINES_NAMED} more" if len(blank) > _LINES_NAMED else ""
        named = ", ".join(blank[:_LINES_NAMED])
        logger.warning("%s: line %s%s blank, read as an empty text", _name(file), named, more)


def read_lines(file: Path) -> list[str]:
    """The lines of a file, also of a gzipped one, or of the standard input for ``-``, without blank ones at the end.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if file == STREAM else file.read_bytes()
        # UTF-8 whatever the locale says; some editors begin a file with a byte order mark.
        text = (gzip.decompress(raw) if file.suffix == GZIP else raw).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(f"{_name(file)} is not UTF-8 (byte {error.start}). Convert it first.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{_name(file)} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    # Only a newline ends a line: texts may hold other separators.
    return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")] if text.strip() else []


def _name(file: Path) -> str:
    return "the standard input" if file == STREAM else str(file)


def as_typed(text: str, place: str) -> str:
    """A text of the command line, read as UTF-8 also where the locale is another one (bytes are lone surrogates then).

    Raises:
        InputError: it is not UTF-8.
    """
    if not SURROGATE.search(text):
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise InputError(f"{place} is not UTF-8: {text[:60]!r}. Convert it first.") from error
