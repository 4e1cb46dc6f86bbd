"""What task commands read and write: texts from arguments, files or stdin; answers for people or for programs."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from flagai import settings
from flagai.cli.common import print_json, read_lines, to_json
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError

Texts = Annotated[list[str] | None, typer.Argument(help="Texts. Without any, --file or the standard input is read.")]
InFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="A text a line, or JSON lines (.jsonl, or lines that begin with {); - is stdin."),
]
OutFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write JSON lines to this file.")]
Field = Annotated[str, typer.Option(help="The field of JSON lines that has the text.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model's name or folder.", show_default=True)]
Home = Annotated[Path | None, typer.Option("--model-dir", help="The folder of models; default FLAGAI_HOME.")]
Device = Annotated[str | None, typer.Option(help="Where to run, such as cpu or cuda:1; default the best there is.")]
Quantize = Annotated[str | None, typer.Option(help="Keep the weights in fewer bits: int8 or int4.")]
BatchSize = Annotated[int, typer.Option(min=1, help="How many texts run together.")]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """A text to work on.

    Args:
        text: the text.
        fields: the JSON object that it came in, which the answer is added to.
    """

    text: str
    fields: dict[str, Any]


def read_entries(texts: Sequence[str] | None, file: Path | None, field: str = "text") -> list[Entry]:
    """The texts that a command was given.

    Args:
        texts: the arguments.
        file: the file, ``-`` for the standard input.
        field: the field of JSON lines that has the text.

    Raises:
        InputError: there are none, or a line of the file is broken; the message has its number.
    """
    if texts:
        if file is not None:
            raise InputError("Give texts as arguments or by --file, not both.")
        return [Entry(text, {field: text}) for text in clean(texts)]
    if file is None:
        if sys.stdin.isatty():
            raise InputError("There is no text. Give some as arguments, by --file, or on the standard input.")
        file = Path("-")
    lines = read_lines(file)
    is_json = file.suffix == ".jsonl" or (bool(lines) and lines[0].startswith("{"))
    return [_entry(file, number, line, field) for number, line in enumerate(lines, 1) if line.strip() or not is_json]


def _entry(file: Path, number: int, line: str, field: str) -> Entry:
    if file.suffix != ".jsonl" and not line.startswith("{"):
        return Entry(clean([line])[0], {field: line})
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number} is no JSON: {error}.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get(field), str):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise InputError(f"{file}, line {number} has no text in {field!r} (found: {found}). Name the field by --field.")
    return Entry(clean([fields[field]])[0], fields)


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
        out: write JSON lines here instead, whole or not at all.
    """
    if out is not None:
        from flagai.checkpoint.atomic import replace_file

        with replace_file(out) as temporary, temporary.open("w", encoding="utf-8") as target:
            for entry, found in _answers(entries, compute, batch_size):
                target.write(to_json(entry.fields | as_fields(found)) + "\n")
        return
    for entry, found in _answers(entries, compute, batch_size):
        if as_json:
            print_json(entry.fields | as_fields(found))
        else:
            show(entry, found)


def _answers(
    entries: Sequence[Entry], compute: Callable[[list[Entry]], Sequence[Answer]], batch_size: int
) -> Iterator[tuple[Entry, Answer]]:
    batches = [list(entries[start : start + batch_size]) for start in range(0, len(entries), batch_size)]
    for batch in _with_progress(batches, len(entries)):
        yield from zip(batch, compute(batch), strict=True)


def _with_progress(batches: list[list[Entry]], total: int) -> Iterator[list[Entry]]:
    """The batches, with a bar on the screen where somebody looks at it and it is worth one: one for a machine."""
    if len(batches) < 2 or settings.local_rank() or not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("texts", total=total)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
