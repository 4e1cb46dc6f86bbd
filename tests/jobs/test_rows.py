"""The rows of files, of every form."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from flagai.errors import InputError
from flagai.jobs.parts import cut, split_format, write_rows
from flagai.jobs.rows import fields_of, read_rows

ROWS = [{"text": "第一行"}, {"text": 'a, "quoted" text'}, {"text": ""}, {"text": "line separators \u2028 \x85 stay"}]


def written(path: Path, content: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(packed(content))
    return path


def read(path: Path) -> list[dict[str, Any] | str]:
    """The fields of each row, or why there are none."""
    understand, found = fields_of(path, "text"), []
    for row in read_rows(path):
        try:
            found.append(understand(row))
        except InputError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_what_is_written_is_read(form: str, packing: str, tmp_path: Path) -> None:
    if form == ".parquet" and packing:
        with pytest.raises(InputError, match="parquet"):
            split_format(f"parquet{packing}")
        return
    place = tmp_path / f"rows{form}{packing}"
    with place.open("wb") as target:
        write_rows(target, ROWS, *split_format(f"{form}{packing}"))
    assert read(place) == ROWS
    first = place.read_bytes()
    with place.open("wb") as target:
        write_rows(target, ROWS, *split_format(f"{form}{packing}"))
    assert place.read_bytes() == first, "the same rows give the same bytes"


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "texts.txt.gz", b"\xef\xbb\xbfone\r\n\n\xff\ntwo")
    assert read(path) == [{"text": "one"}, {"text": ""}, "it is not UTF-8 (byte 0)", {"text": "two"}]


def test_broken_rows_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b'{"text": "a"}\n\n[1]\n{"text"\n{"text": "b"}\n')
    found = read(path)
    assert [found[0], found[-1]] == [{"text": "a"}, {"text": "b"}]
    assert "type list" in str(found[1])
    assert "not JSON" in str(found[2])
    assert [row.number for row in read_rows(path)] == [1, 3, 4, 5], "blank lines count"
    path = written(tmp_path / "rows.csv", b'id,text\n1,a\n2\n3,\xff\n4,"two\nlines"\n5,e\n')
    found = read(path)
    assert found[0] == {"id": "1", "text": "a"}
    assert "1 columns" in str(found[1])
    assert "UTF-8" in str(found[2])
    assert found[3:] == [{"id": "4", "text": "two\nlines"}, {"id": "5", "text": "e"}]
    assert [row.number for row in read_rows(path)] == [2, 3, 4, 5, 7]


def test_tables_without_quotes(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.tsv", b'text\tn\n"a\t1\n')
    assert read(path) == [{"text": '"a', "n": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("array.json", b"[{}]", "JSON lines"),
        ("open.csv", b'a\n"never closed\n', "line 2"),
        ("no.parquet", b"PAR", "not a Parquet"),
        ("cut.jsonl.gz", gzip.compress(mtime=0, data=b'{"text": "a"}\n' * 1000)[:30], "cannot be read"),
    ],
    ids=["array", "open quote", "no parquet", "cut"],
)
def test_files_that_have_no_rows(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    rows = [{"text": str(number), "number": number, "list": [1.5, 2]} for number in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows


def test_parts_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "a.jsonl", tmp_path / "b" / "a.jsonl.gz", tmp_path / "empty.txt"]
    for path, count in zip(paths, (5, 2, 0), strict=True):
        written(path, b"".join(json.dumps({"text": str(number)}).encode() + b"\n" for number in range(count)))
    parts = list(cut(paths, 2))
    assert [part.name for part in parts] == ["a.0-000000", "a.0-000001", "a.0-000002", "a.1-000000", "empty-000000"]
    assert [part.number for part in parts] == list(range(5))
    assert [len(part.rows) for part in parts] == [2, 2, 1, 2, 0]
