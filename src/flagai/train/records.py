"""Data files to records: JSON lines, CSV, TSV and CoNLL; every complaint names the file, the line and the cure."""

import gzip
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagai.errors import InputError
from flagai.train.conll import rows_of_conll
from flagai.train.datasets import rows_of, rows_of_folder, rows_of_parquet
from flagai.train.tables import rows_of_csv, rows_of_tsv
from flagai.typed_json import parse_json

# A file or folder, or rows themselves.
Data = str | Path | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Record:
    """A row of a data file."""

    fields: Mapping[str, Any]  # its values by column
    place: str  # the file and the line, for messages
    lines: tuple[int, ...] = ()  # of CoNLL the line of each token

    def text(self, column: str) -> str:
        """A text that is not empty, or an InputError."""
        value = self.value(column)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.place}: {column!r} is {value!r}; expected a text. Correct or remove the line.")
        return value

    def value(self, column: str) -> Any:
        """The value of a column, or an InputError."""
        if column not in self.fields:
            raise InputError(
                f"{self.place}: there is no column {column!r}, only {self._names()}. "
                f"Rename the column, or say which one it is: --column {column}=NAME."
            )
        return self.fields[column]

    def renamed(self, columns: Mapping[str, str]) -> "Record":
        """The same row, with values under further names too: ``{"text": "abstract"}``."""
        for wanted, given in columns.items():
            if given not in self.fields:
                raise InputError(
                    f"{self.place}: there is no column {given!r}, only {self._names()}. Say which one is {wanted!r}: "
                    f"--column {wanted}=NAME."
                )
        return replace(self, fields={**self.fields, **{name: self.fields[given] for name, given in columns.items()}})

    def strings(self, column: str) -> list[str]:
        """A list of texts, such as tags; the cell of a table has blanks between them.

        Raises:
            InputError: the column has something else.
        """
        value = self.value(column)
        if isinstance(value, str):
            value = re.split("[ \t]+", value.strip(" \t"))
        if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry for entry in value):
            raise InputError(f"{self.place}: {column!r} is {value!r:.60}; expected a list of texts.")
        return value

    def line_of(self, index: int) -> str:
        """The place of a tag: the line of its token, or of the row and its number in it."""
        if self.lines:
            return f"{self.place.rpartition(', ')[0]}, line {self.lines[index]}"
        return f"{self.place}, tag {index + 1}"

    def _names(self) -> str:
        return ", ".join(map(repr, self.fields)) or "none"


def read_records(path: Data, columns: Mapping[str, str] | None = None) -> list[Record]:
    """Read a data file.

    Args:
        path: JSON lines (.jsonl) or an array (.json), a table with a header (.csv with quotes, .tsv without) or CoNLL
            (.conll, .bio, .txt: one token and its tag per line, an empty line between texts), also gzipped; Parquet; a
            folder that ``save_to_disk`` of Hugging Face's ``datasets`` wrote; or such a data set itself, as any other
            series of mappings. Numbers of a ``ClassLabel`` become names.
        columns: which column of the file stands for one that a task asks for, such as ``{"text": "abstract"}``.

    Raises:
        InputError: the file is absent, empty, not UTF-8 or of another form.
    """
    if not isinstance(path, str | Path):
        name: str | Path = "the data set"
        records = [Record(fields, place) for place, fields in rows_of(path)]
    else:
        name = path
        records = [Record(fields, f"{path}, {place}", *lines) for place, fields, *lines in _rows(Path(path))]
    if not records:
        raise InputError(f"{name} has no data. Expected at least one row.")
    return [record.renamed(columns) for record in records] if columns else records


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    if path.is_dir():
        return rows_of_folder(path)
    suffix = (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()
    if suffix == ".parquet" and path.suffix != ".gz" and path.is_file():
        return rows_of_parquet(path)
    # Only LF ends a line, as texts may hold other separators (U+0085, U+2028).
    lines = _read(path).removesuffix("\n").split("\n")
    if suffix not in _READERS:
        known = ", ".join([*_READERS, ".parquet"])
        raise InputError(f"{path} is of no known form. Known endings: {known} (CoNLL), each also as .gz.")
    return _READERS[suffix](lines, path)


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


def _rows_of_json(lines: Sequence[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects: one per line, or all in one array."""
    if path.name.removesuffix(".gz").lower().endswith(".json") and "".join(lines).lstrip().startswith("["):
        entries = [(f"entry {number}", entry) for number, entry in enumerate(_parsed("\n".join(lines), str(path)), 1)]
    else:
        places = [(f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
        entries = [(place, _parsed(line, f"{path}, {place}")) for place, line in places]
    for place, fields in entries:
        if not isinstance(fields, dict):
            found = type(fields).__name__
            raise InputError(f"{path}, {place} is of type {found}; expected an object such as {{'text': ...}}.")
        yield place, fields


def _parsed(text: str, place: str) -> Any:
    try:
        return parse_json(text, place, InputError)
    except InputError as error:
        raise InputError(f"{error} Each line must be one object.") from error


_CONLL = (".conll", ".bio", ".iob", ".iob1", ".iob2", ".bioes", ".bmes", ".bilou", ".txt")
# Each gives the place and the fields of every row.
_READERS: dict[str, Callable[[Sequence[str], Path], Iterator[tuple[Any, ...]]]] = {
    **dict.fromkeys((".jsonl", ".json"), _rows_of_json),
    ".csv": rows_of_csv,
    ".tsv": rows_of_tsv,
    **dict.fromkeys(_CONLL, rows_of_conll),
}
