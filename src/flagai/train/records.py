"""Data files to records: JSON lines, CSV, TSV and CoNLL; every complaint names the file, the line and the cure."""

import gzip
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.errors import InputError
from flagai.train.conll import sentences
from flagai.train.tables import rows_of_csv, rows_of_tsv
from flagai.typed_json import parse_json


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
        path: JSON lines (.jsonl) or an array (.json), a table with a header (.csv with quotes, .tsv without) or CoNLL
            (.conll, .bio, .txt: a token and its tag a line, an empty line between texts), also gzipped.
        columns: which column of the file stands for one that a task asks for, such as ``{"text": "abstract"}``.

    Raises:
        InputError: the file is absent, empty, not UTF-8 or of another form.
    """
    path = Path(path)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    content = _read(path)
    if suffix.lower() not in _READERS:
        raise InputError(f"{path} is of no known form. Known endings: {', '.join(_READERS)} (CoNLL), each also as .gz.")
    records = list(_READERS[suffix.lower()](content, path))
    if not records:
        raise InputError(f"{path} has no data. Expected at least one row.")
    if not columns:
        return records
    return [Record(_renamed(record, columns), record.place) for record in records]


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
    except (OSError, EOFError, zlib.error) as error:
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


def _lines(content: str) -> list[str]:
    """The lines; only LF ends one, as texts may hold other separators (U+0085, U+2028)."""
    return content.removesuffix("\n").split("\n")


def _json(content: str, path: Path) -> Iterator[Record]:
    """Objects: one a line, or all in one array."""
    if path.name.removesuffix(".gz").lower().endswith(".json") and content.lstrip().startswith("["):
        entries = [(f"entry {number}", entry) for number, entry in enumerate(_parsed(content, str(path)), 1)]
    else:
        lines = [(f"line {number}", line) for number, line in enumerate(_lines(content), 1) if line.strip()]
        entries = [(place, _parsed(line, f"{path}, {place}")) for place, line in lines]
    for place, fields in entries:
        if not isinstance(fields, dict):
            found = type(fields).__name__
            raise InputError(f"{path}, {place} is of type {found}; expected an object such as {{'text': ...}}.")
        yield Record(fields, f"{path}, {place}")


def _parsed(text: str, place: str) -> Any:
    try:
        return parse_json(text, place, InputError)
    except InputError as error:
        raise InputError(f"{error} Each line must be one object.") from error


def _csv(content: str, path: Path) -> Iterator[Record]:
    return (Record(fields, f"{path}, line {number}") for number, fields in rows_of_csv(_lines(content), path))


def _tsv(content: str, path: Path) -> Iterator[Record]:
    return (Record(fields, f"{path}, line {number}") for number, fields in rows_of_tsv(_lines(content), path))


def _conll(content: str, path: Path) -> Iterator[Record]:
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(_lines(content), 1)]
    for number, tokens, tags in sentences(lines, path):
        yield Record({"tokens": tokens, "tags": tags}, f"{path}, line {number}")


_READERS: dict[str, Callable[[str, Path], Iterator[Record]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob1", ".iob2", ".bioes", ".bmes", ".bilou", ".txt"), _conll),
}
