"""What task commands read and write: texts from arguments, files or stdin; answers for people or for programs."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from flagai import settings
from flagai.cli.common import as_typed, file_name, print_json, read_lines
from flagai.cli.formats import JSON_LINES, TABLES, refuse_binary, suffix_of
from flagai.cli.output import STDOUT, open_table
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError

logger = logging.getLogger(__name__)

Texts = Annotated[list[str] | None, typer.Argument(help="Texts. Without any, --file or the standard input is read.")]
InFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="A text a line, JSON lines (.jsonl, or a file that begins with {), or a table with a header (.csv, .tsv), "
        "each also as .gz; - is stdin.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write JSON lines, or .csv or .tsv, each also as .gz; - is stdout."),
]
Field = Annotated[str, typer.Option(help="The field of JSON lines, or the column of a table, that has the text.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model's name or folder.", show_default=True)]
Home = Annotated[Path | None, typer.Option("--model-dir", help="The folder of models; default FLAGAI_HOME.")]
Device = Annotated[str | None, typer.Option(help="Where to run, such as cpu or cuda:1; default the best there is.")]
Quantize = Annotated[str | None, typer.Option(help="Keep the weights in fewer bits: int8, int4, int8-all or int4-all.")]
BatchSize = Annotated[int, typer.Option(min=1, help="How many texts run together.")]

# Seconds between lines that say how far a command is, where no terminal shows a bar.
_EVERY = 30.0
_LINES_NAMED = 5

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """A text to work on.

    Args:
        text: the text.
        fields: the JSON object that it came in, which the answer is added to.
        place: the file and the line, or the argument, for messages.
    """

    text: str
    fields: dict[str, Any]
    place: str

    @property
    def number(self) -> int:
        """The number of the line or the argument."""
        return int(self.place.rpartition(" ")[2])


def read_entries(texts: Sequence[str] | None, file: Path | None, field: str = "text") -> list[Entry]:
    """The texts that a command was given.

    Args:
        texts: the arguments.
        file: the file, ``-`` for the standard input.
        field: the field of JSON lines, or the column of a table, that has the text.

    Raises:
        InputError: there are none, or a line of the file is broken; the message has its number.
    """
    if texts:
        if file is not None:
            raise InputError("Give texts as arguments or by --file, not both.")
        typed = [as_typed(text, f"Text {number}") for number, text in enumerate(texts, 1)]
        return [Entry(text, {field: text}, f"Text {number}") for number, text in enumerate(clean(typed), 1)]
    if file is None:
        if sys.stdin.isatty():
            raise InputError("There is no text. Give some as arguments, by --file, or on the standard input.")
        file = STDOUT
    return [_entry(place, fields, field) for place, fields in read_rows(file, field)]


def read_rows(file: Path, field: str) -> list[tuple[str, Any]]:
    """The objects of JSON lines, the rows of a table or the lines of a text, each with its place for messages.

    Args:
        file: the file, ``-`` for the standard input.
        field: under which name a line of a text is given.

    Raises:
        InputError: the file is of another form, or a line is broken; the message has its number.
    """
    refuse_binary(file, f"--file {file}", "Expected a text a line, JSON lines (.jsonl), .csv or .tsv")
    if suffix_of(file) in TABLES:
        from flagai.train.records import read_records

        return [(record.place, dict(record.fields)) for record in read_records(file)]
    lines = read_lines(file)
    numbered = [(f"{file_name(file)}, line {number}", line) for number, line in enumerate(lines, 1)]
    first = next((line for line in lines if line.strip()), "")
    if suffix_of(file) in JSON_LINES or first.startswith("{"):
        return [(place, _parsed(place, line)) for place, line in numbered if line.strip()]
    _tell_blank(file, lines)
    return [(place, {field: line}) for place, line in numbered]


def _parsed(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON: {error}. Expected one object a line.") from error


def _entry(place: str, fields: Any, field: str) -> Entry:
    if not isinstance(fields, dict) or not isinstance(fields.get(field), str):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise InputError(f"{place} has no text in {field!r} (found: {found}). Name the field by --field.")
    return Entry(clean([fields[field]])[0], fields, place)


def _tell_blank(file: Path, lines: Sequence[str]) -> None:
    """Say which lines are blank: each counts as an empty text, so that answers stay beside their lines."""
    if not lines:
        logger.warning("%s holds no text", file_name(file))
    blank = [str(number) for number, line in enumerate(lines, 1) if not line.strip()]
    if blank:
        more = f" and {len(blank) - _LINES_NAMED} more" if len(blank) > _LINES_NAMED else ""
        logger.warning(
            "%s: line %s%s blank, read as an empty text", file_name(file), ", ".join(blank[:_LINES_NAMED]), more
        )


def answer(
    entries: Sequence[Entry],
    compute: Callable[[list[Entry]], Sequence[Answer]],
    *,
    as_fields: Callable[[Answer], dict[str, Any]],
    show: Callable[[Entry, Answer], None],
    batch_size: int,
    as_json: bool,
    out: Path | None = None,
) -> None:
    """Work on texts in batches, and print or write every answer as soon as it is there.

    Args:
        entries: the texts.
        compute: makes the answers of a batch.
        as_fields: an answer as fields of a JSON object.
        show: prints an answer for people.
        batch_size: how many texts run together.
        as_json: print JSON lines.
        out: write here instead, whole or not at all; see :func:`flagai.cli.output.open_table`.
    """
    if out is not None:
        columns = dict.fromkeys(name for entry in entries for name in entry.fields)
        with open_table(out, list(columns)) as put:
            for entry, found in _answers(entries, compute, batch_size):
                put(entry.fields | as_fields(found))
        return
    for entry, found in _answers(entries, compute, batch_size):
        if as_json:
            print_json(entry.fields | as_fields(found))
        else:
            show(entry, found)


def _answers(
    entries: Sequence[Entry], compute: Callable[[list[Entry]], Sequence[Answer]], batch_size: int
) -> Iterator[tuple[Entry, Answer]]:
    for batch in in_batches(entries, batch_size):
        yield from zip(batch, compute(batch), strict=True)


def in_batches(entries: Sequence[Entry], batch_size: int) -> Iterator[list[Entry]]:
    """The texts in batches; a bar on a terminal, or a line every 30 seconds, says how far it is, once per machine.

    Args:
        entries: the texts.
        batch_size: how many texts run together.
    """
    batches = [list(entries[start : start + batch_size]) for start in range(0, len(entries), batch_size)]
    if len(batches) < 2 or settings.local_rank():
        yield from batches
    elif sys.stderr.isatty():
        yield from _with_bar(batches, len(entries))
    else:
        yield from _with_lines(batches, len(entries))


def _with_lines(batches: list[list[Entry]], total: int) -> Iterator[list[Entry]]:
    done, told = 0, time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch)
        if done < total and time.monotonic() - told >= _EVERY:
            told = time.monotonic()
            typer.echo(f"{done} of {total} texts", err=True)


def _with_bar(batches: list[list[Entry]], total: int) -> Iterator[list[Entry]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("texts", total=total)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
