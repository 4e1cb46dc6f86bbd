"""The rows of files, one after the other: lines of text, JSON lines, tables and Parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flagai.data.parquet import parquet_rows
from flagai.errors import InputError
from flagai.jobs.streams import form_of, open_input

JSON_LINES = (".jsonl", ".ndjson")
SEPARATORS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawRow:
    """A row that has not been understood yet.

    Args:
        number: of its line, or of the row where there are no lines, from 1.
        content: a line, or cells, or an object.
        position: how far the file has been read, in bytes.
    """

    number: int
    content: Any
    position: int


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a file, in bounded memory.

    Raises:
        InputError: the file cannot be read, or is of a form that has no rows.
    """
    with open_input(path) as (stream, raw):
        try:
            yield from _READERS.get(form_of(path), _lines)(stream, raw, path)
        except (OSError, EOFError) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error


def fields_of(path: Path, field: str) -> Callable[[RawRow], dict[str, Any]]:
    """What turns the rows of a file into fields; it raises an InputError for a broken row.

    Args:
        path: the file.
        field: under which name a line of a text is given.
    """
    form = form_of(path)
    if form in SEPARATORS or form == PARQUET:
        return lambda row: dict(row.content) if isinstance(row.content, Mapping) else _refuse(row.content)
    if form in JSON_LINES:
        return lambda row: _object(_text(row.content))
    return lambda row: {field: _text(row.content)}


def _lines(stream: IO[bytes], raw: IO[bytes], _: Path) -> Iterator[RawRow]:
    for number, line in enumerate(stream, 1):
        content = line.removeprefix(_BOM) if number == 1 else line
        yield RawRow(number, content.rstrip(b"\r\n"), raw.tell())


def _json_lines(stream: IO[bytes], raw: IO[bytes], path: Path) -> Iterator[RawRow]:
    return (row for row in _lines(stream, raw, path) if row.content.strip())


def _array(_stream: IO[bytes], _raw: IO[bytes], path: Path) -> Iterator[RawRow]:
    raise InputError(
        f"{path} is a JSON array, which cannot be read row by row. Save it as JSON lines (.jsonl): one object per line."
    )


def _table(stream: IO[bytes], raw: IO[bytes], path: Path) -> Iterator[RawRow]:
    """Rows of a table as mappings; those that have not the header's number of cells, or are not UTF-8, as messages."""
    separator = SEPARATORS[form_of(path)]
    lines = (row.content.decode("utf-8", "surrogateescape") + "\n" for row in _lines(stream, raw, path))
    head = next(lines, "")
    # A .tsv file is quoted only if all names of its header are (as in flagai.train.tables).
    names = head.rstrip("\n").split(separator)
    plain = separator == "\t" and not all(len(name) > 1 and name[0] == name[-1] == '"' for name in names)
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.reader(_after(head, lines), delimiter=separator, quoting=quoting, strict=not plain)
    header: list[str] = []
    end = 0
    try:
        for cells in reader:
            number, end = end + 1, reader.line_num
            if not header:
                header = [name.strip() for name in cells]
            elif any(cells) or len(cells) == len(header):
                yield RawRow(number, _cells(header, cells), raw.tell())
    except csv.Error as error:
        raise InputError(
            f"{path}, line {end + 1} is not CSV: {error}. Close its quotes, and write those inside of a text twice."
        ) from error


def _after(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _cells(header: list[str], cells: list[str]) -> dict[str, str] | str:
    if len(cells) != len(header):
        return f"it has {len(cells)} columns, the header {len(header)}: {', '.join(header)}"
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return "it is not UTF-8"
    return dict(zip(header, cells, strict=True))


def _parquet(stream: IO[bytes], _raw: IO[bytes], path: Path) -> Iterator[RawRow]:
    size = path.stat().st_size
    for number, total, row in parquet_rows(stream, path):
        yield RawRow(number, row, size * number // total)


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"it is not UTF-8 (byte {error.start})") from error


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)  # not typed_json: fields go back out as they are, also lone surrogates
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON: {error}") from error
    return found if isinstance(found, dict) else _refuse(f"it is of type {type(found).__name__}, not an object")


def _refuse(reason: Any) -> Any:
    raise InputError(str(reason))


_READERS: dict[str, Callable[[IO[bytes], IO[bytes], Path], Iterator[RawRow]]] = {
    **dict.fromkeys(JSON_LINES, _json_lines),
    **dict.fromkeys(SEPARATORS, _table),
    ".json": _array,
    PARQUET: _parquet,
}
