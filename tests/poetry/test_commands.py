"""Poems by command: with rules, without, and in a job."""

import json
from pathlib import Path

from typer.testing import CliRunner

from flagai.cli import app
from flagai.poetry import faults


def test_strict_is_the_default_and_free_is_not() -> None:
    runs = [
        CliRunner().invoke(app, ["poem", "登高", "--seed", "1", *more]) for more in ((), ("--strict",), ("--free",))
    ]
    strict, same, free = (each.output.strip() for each in runs)
    assert strict == same != free
    assert faults(strict, "七言绝句") == faults(free, "七言绝句", strict=False) == []


def test_a_job_writes_poems_for_lines_and_lists_those_that_fail(tmp_path: Path) -> None:
    (tmp_path / "titles.txt").write_text("秋：五言律诗\n春：词\n", encoding="utf-8")
    asked = ["run", "poem", "--in", str(tmp_path / "titles.txt"), "--out", str(tmp_path / "out"), "--seed", "1"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    (answers,) = (tmp_path / "out").glob("*[0-9].jsonl")
    (errors,) = (tmp_path / "out").glob("*.errors.jsonl")
    row = json.loads(answers.read_text(encoding="utf-8"))
    assert faults(row["poem"], "五言律诗") == []
    assert "'词' is not a form of a poem" in errors.read_text(encoding="utf-8")
