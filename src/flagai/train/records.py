"""Data files to records: JSON lines, CSV and CoNLL; every complaint names the file, the line and the cure."""

import csv
import gzip
import io
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.errors import InputError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_CONLL = (".conll", ".bio", ".bioes", ".txt")
_KNOWN = ".jsonl, .json, .csv, .tsv, .conll, .bio, .txt (CoNLL), each also as .gz"


@dataclass(frozen=True)
class Record:
    """A row of a data file.

    Args:
        fields: its values by column.
        place: the file and the line, for messages.
    """

    fields: Mapping[str, Any]
    place: str

    def text(self, column: str) -> str:
        """A text that is not empty.

        Raises:
            InputError: there is none in this column.
        """
        value = self.value(column)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.place}: {column!r} is {value!r}; expected a text. Correct or remove the line.")
        return value

    def value(self, column: str) -> Any:
        """The value of a column.

        Raises:
            InputError: there is no such column.
        """
        if column not in self.fields:
            raise InputError(
                f"{self.place}: there is no column {column!r}, only {_names(self)}. "
                f"Rename the column, or say which one it is: --column {column}=NAME."
            )
        return self.fields[column]


def read_records(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Record]:
    """Read a data file.

    Args:
        path: JSON lines (.jsonl), CSV with a header (.csv, .tsv) or CoNLL (.conll, .bio, .txt: a token and its tag a
            line, an empty line between texts), also gzipped.
        columns: which column of the file stands for one that a task asks for, such as ``{"text": "abstract"}``.

    Raises:
        InputError: the file is absent, empty, not UTF-8 or of another form.
    """
    path = Path(path)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    content = _read(path)
    if suffix in (".jsonl", ".json"):
        records = list(_json_lines(content, path))
    elif suffix in _SEPARATORS:
        records = list(_table(content, path, _SEPARATORS[suffix]))
    elif suffix in _CONLL:
        records = list(_conll(content, path))
    else:
        raise InputError(f"{path} is of no known form. Known endings: {_KNOWN}.")
    if not records:
        raise InputError(f"{path} has no data. Expected at least one row.")
    if not columns:
        return records
    return [Record(_renamed(record, columns), record.place) for record in records]


def _columns(row: Sequence[str], place: str) -> list[str]:
    """The names of a header."""
    names = [name.strip() for name in row]
    double = next((name for name in names if name and names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{place}: two columns are called {double!r}. Give each a name of its own.")
    return names


def _renamed(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    for wanted, given in columns.items():
        if given not in record.fields:
            raise InputError(
                f"{record.place}: there is no column {given!r}, only {_names(record)}. Say which one is {wanted!r}: "
                f"--column {wanted}=NAME."
            )
    return dict(record.fields) | {wanted: record.fields[given] for wanted, given in columns.items()}


def _names(record: Record) -> str:
    return ", ".join(map(repr, record.fields)) or "none"


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        wide = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        cure = "UTF-16 -t UTF-8" if wide else "GB18030 -t UTF-8, if it comes from Chinese Windows"
        raise InputError(
            f"{path}, line {line} is not UTF-8 (byte {error.start}). Convert the file: iconv -f {cure}."
        ) from error


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; only a newline ends a line, as texts may hold other separators."""
    for number, line in enumerate(content.split("\n"), 1):
        yield number, line.rstrip("\r")


def _json_lines(content: str, path: Path) -> Iterator[Record]:
    for number, line in _lines(content):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place} is no JSON: {error}. Each line must be one object.") from error
        if not isinstance(fields, dict):
            raise InputError(f"{place} is a {type(fields).__name__}; expected an object such as {{'text': ...}}.")
        yield Record(fields, place)


def _table(content: str, path: Path, separator: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    done = 0  # lines; a row, or a quote that nobody closes, may have many, of which the first is named
    try:
        for row in reader:
            place, done = f"{path}, line {done + 1}", reader.line_num
            if header is None:
                header = _columns(row, place)
            elif len(row) == len(header):
                yield Record(dict(zip(header, row, strict=True)), place)
            elif any(row):
                raise InputError(
                    f"{place} has {len(row)} columns, the header {len(header)}: {', '.join(header)}. "
                    'Put texts that hold the separator into "quotes".'
                )
    except csv.Error as error:
        raise InputError(
            f"{path}, line {done + 1} is no CSV: {error}. Close its quotes, and write those inside of a text twice."
        ) from error


def _conll(content: str, path: Path) -> Iterator[Record]:
    tokens: list[str] = []
    tags: list[str] = []
    begin = 1
    for number, line in [*_lines(content), (0, "")]:
        if line.strip():
            parts = line.split()
            if len(parts) < 2:
                raise InputError(
                    f"{path}, line {number} is {line!r}; expected a token and its tag, such as '京 I-LOC'."
                )
            if not tokens:
                begin = number
            tokens.append(parts[0])
            tags.append(parts[-1])
        elif tokens:
            yield Record({"tokens": tokens, "tags": tags}, f"{path}, line {begin}")
            tokens, tags = [], []


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text made of tokens, with a blank between words of letters, and the place (start, end) of each in it."""
    text = ""
    places = []
    for token in tokens:
        if text and _is_word(text[-1]) and _is_word(token[:1]):
            text += " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()
