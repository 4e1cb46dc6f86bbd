"""Parts of a job: some rows of one file, and the files that their answers go to."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flagai.checks import check_extra
from flagai.errors import InputError
from flagai.jobs.rows import JSON_LINES, PARQUET, SEPARATORS, RawRow, read_rows
from flagai.jobs.streams import COMPRESSIONS, form_of, packed

FORMATS = (*(JSON_LINES[0], *SEPARATORS), PARQUET)
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Part:
    """Some neighbouring rows of a file.

    Args:
        path: the file.
        name: of the answers' file, without its ending.
        number: of the part among those of all files, from 0.
        rows: the rows.
    """

    path: Path
    name: str
    number: int
    rows: Sequence[RawRow]


def cut(paths: Sequence[Path], size: int) -> Iterator[Part]:
    """Cut files into parts.

    Args:
        paths: the files.
        size: rows of a part.
    """
    number = 0
    for path, stem in zip(paths, _stems(paths), strict=True):
        rows: list[RawRow] = []
        of_file = 0
        for row in read_rows(path):
            rows.append(row)
            if len(rows) == size:
                yield Part(path, f"{stem}-{of_file:06d}", number, rows)
                rows, of_file, number = [], of_file + 1, number + 1
        if rows or not of_file:  # of an empty file, an empty part, so that it is seen to be done
            yield Part(path, f"{stem}-{of_file:06d}", number, rows)
            number += 1


def _stems(paths: Sequence[Path]) -> list[str]:
    """Names of files without their endings, with a number behind those that are not the only ones."""
    names = [
        path.name.removesuffix(path.suffix) if path.suffix.lower() in COMPRESSIONS else path.name for path in paths
    ]
    stems = [Path(name).stem for name in names]
    return [
        stem if stems.count(stem) == 1 else f"{stem}.{stems[:place].count(stem)}" for place, stem in enumerate(stems)
    ]


def split_format(name: str) -> tuple[str, str]:
    """The form of files of answers and their compression, such as (".jsonl", ".gz") of "jsonl.gz".

    Raises:
        InputError: there is no such form.
    """
    path = Path(f"answers.{name.lower().removeprefix('.')}")
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    form = form_of(path)
    if form not in FORMATS or (compression and form == PARQUET):
        known = ", ".join(each.removeprefix(".") for each in FORMATS)
        raise InputError(f"There is no format {name!r}. Known: {known}; all but parquet also with .gz or .zst.")
    return form, compression


def to_json(entry: object) -> str:
    """A value as one line of JSON; lone surrogates, which no file can hold, stay escaped."""
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(entry, ensure_ascii=False))


def write_rows(target: IO[bytes], rows: Sequence[dict[str, Any]], form: str, compression: str) -> None:
    """Write rows as a file.

    Args:
        target: where the bytes go.
        rows: the rows, by the names of their fields.
        form: one of ``FORMATS``.
        compression: ``.gz``, ``.zst`` or nothing.
    """
    if form == PARQUET:
        check_extra("parquet", "pyarrow")
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), target)
        return
    with packed(target, compression) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        if form in SEPARATORS:
            write_table(text, rows, form)
        else:
            text.writelines(f"{to_json(row)}\n" for row in rows)
        text.flush()
        text.detach()


def write_table(target: IO[str], rows: Sequence[dict[str, Any]], form: str) -> None:
    """Write rows under a header; lists and numbers that are no plain cell are written as JSON."""
    put = begin_table(target, [*dict.fromkeys(name for row in rows for name in row)], form)
    for row in rows:
        put(row)


def begin_table(target: IO[str], names: Sequence[str], form: str) -> Callable[[Mapping[str, Any]], None]:
    """Write the header of a table; what is returned writes a row."""
    # A .tsv file counts as quoted only if its header is (as in flagai.train.tables).
    quoting: Any = csv.QUOTE_ALL if form == ".tsv" else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(target, names, delimiter=SEPARATORS[form], quoting=quoting)
    writer.writeheader()

    def put(row: Mapping[str, Any]) -> None:
        writer.writerow({name: cell(value) for name, value in row.items()})

    return put


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else to_json(value)
