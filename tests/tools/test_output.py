"""Where answers go: whatever stands at --out stays what it is, and a full disk is one line."""

import csv
import gzip
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from flagai import cli
from flagai.checkpoint.atomic import replace_file
from flagai.cli.output import check_target, open_table
from flagai.errors import InputError
from flagai.train.records import read_records

ROWS = [{"text": "今天", "n": [1, 2]}, {"text": 'a "b",\n\ud800', "n": {"x": 1.5}}]
WRITE = "import sys; from pathlib import Path; from flagai.cli.output import open_table\n"
WRITE += "with open_table(Path(sys.argv[1]), ['text']) as put: put({'text': 'one'}); put({'text': 'two'})"
LINES = '{"text": "one"}\n{"text": "two"}\n'


def put_rows(path: Path) -> None:
    with open_table(path, ["text"]) as put:
        for row in ROWS:
            put(row)


def read_json(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def shell(command: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "CODE": WRITE, "FLAGAI": f"{sys.executable} -m flagai"}
    run = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(run, capture_output=True, text=True, check=False, env=environment, **options)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz", "a", "a.txt"])
def test_every_form_holds_the_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    put_rows(path)
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8")
    if ".csv" in name or ".tsv" in name:
        rows = list(csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if ".tsv" in name else ","))
        assert [json.loads(row["n"]) for row in rows] == [row["n"] for row in ROWS]
        assert [row["text"] for row in rows] == ["今天", 'a "b",\n?']
    else:
        assert read_json(text) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.tsv.gz"])
def test_tables_are_read_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    texts = ['"一', 'a\tb "c"', "x\ny", "\u2028\x85", "'"]
    with open_table(tmp_path / name, ["text"]) as put:
        for text in texts:
            put({"text": text, "n": [1]})
    assert [record.fields["text"] for record in read_records(tmp_path / name)] == texts


@pytest.mark.parametrize("name", ["a.npy", "a.npy.gz", "a.safetensors", "a.parquet", "a.xlsx", "a.zip", "a.pdf"])
def test_forms_that_are_not_written_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"by its ending \.\w+\. This command writes"):
        check_target(tmp_path / name)
    result = CliRunner().invoke(cli.app, ["title", "a", "--file", str(tmp_path / name)])
    assert isinstance(result.exception, InputError)


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link, broken = tmp_path / "real" / "target.jsonl", tmp_path / "link.jsonl", tmp_path / "broken.jsonl"
    target.write_text("old")
    link.symlink_to(target)
    broken.symlink_to(tmp_path / "real" / "new.jsonl")
    for path in (link, broken):
        put_rows(path)
        assert path.is_symlink()
        assert read_json(path.read_text()) == ROWS
    assert read_json(target.read_text()) == ROWS


def test_links_in_a_circle_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            put_rows(path)


def test_the_reader_of_a_pipe_gets_the_answers(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    put_rows(pipe)
    reader.join(10)
    assert read_json(found[0]) == ROWS
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
def test_standard_output_is_written_and_stays_what_it_is(tmp_path: Path, place: str) -> None:
    assert shell(f'$PYTHON -c "$CODE" {place} | cat').stdout == LINES
    appended = f'echo begun > log; $PYTHON -c "$CODE" {place} >> log; cat log'
    assert shell(appended, cwd=tmp_path).stdout == "begun\n" + LINES
    assert Path("/dev/stdout").is_symlink()


def test_devices_stay_devices() -> None:
    put_rows(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/full cannot be written: No space left"):
        put_rows(Path("/dev/full"))
    with pytest.raises(InputError, match="a cannot be written: No space left"), replace_file(tmp_path / "a"):
        Path("/dev/full").write_bytes(b"full")
    assert not list(tmp_path.iterdir())
    result = shell("$FLAGAI list --json > /dev/full")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "No space left" in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    for command in ("list --json", "list", "--help"):
        result = shell(f"$FLAGAI {command} | head -1")
        assert result.returncode in (0, 141), command  # 141 is what the shell reports of any command
        assert result.stderr == ""
    result = shell("$FLAGAI list --json | true")
    assert (result.returncode, result.stderr) == (141, "")


def test_embeddings_are_written_as_arrays_in_batches(tmp_path: Path) -> None:
    lines = tmp_path / "lines.csv.gz"
    lines.write_bytes(gzip.compress(b'id,text\n1,one\n2,two\n3,"three, four"\n'))
    for name in ("v.npy", "v.safetensors"):
        command = ["embed", "--file", str(lines), "--out", str(tmp_path / name), "--batch-size", "2"]
        assert CliRunner().invoke(cli.app, command).exit_code == 0
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (3, 384)
    assert (vectors == load_file(tmp_path / "v.safetensors")["embeddings"].numpy()).all()
    printed = CliRunner().invoke(cli.app, ["embed", "--file", str(lines), "--out", "-"]).output
    assert [row["id"] for row in read_json(printed)] == ["1", "2", "3"]
