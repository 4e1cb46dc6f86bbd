"""Task commands with --file and --out: continued after an interruption, and nothing is overwritten silently."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flagai import cli
from flagai.errors import InputError
from flagai.pipelines import EmbeddingPipeline, EntityPipeline
from tests import folders
from tests.tools.commands import fails, run

_COUNT = 2200  # two parts, and a short third one


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, without --out."""
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "RoBERTa-base-ch", "BertModel")
    texts = home / "texts.txt"
    texts.write_text("".join(f"第{number}句\n" for number in range(_COUNT)), encoding="utf-8")
    return ["embed", "--file", str(texts), "--model", "RoBERTa-base-ch", "--model-dir", str(home)]


def calls(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """The numbers of texts that the model is given; after so many calls, the command is interrupted."""
    answer, found = EmbeddingPipeline.__call__, list[int]()

    def counted(self: EmbeddingPipeline, texts: list[str], **options: Any) -> Any:
        if texts:
            if len(found) == most:
                raise KeyboardInterrupt
            found.append(len(texts))
        return answer(self, texts, **options)

    monkeypatch.setattr(EmbeddingPipeline, "__call__", counted)
    return found


@pytest.mark.parametrize("name", ["vectors.jsonl", "vectors.npy"])
def test_an_interrupted_command_continues(
    name: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / f"whole-{name}", tmp_path / name
    run(*command, "--out", str(whole))
    with monkeypatch.context() as patch:
        assert calls(patch, 2) == []
        assert CliRunner().invoke(cli.app, [*command, "--out", str(out)]).exit_code == 130
    assert not out.exists()
    told = fails(InputError, *command, "--out", str(out), "--normalize")
    assert "holds another job" in told
    assert f"remove {tmp_path / f'.{name}.unfinished'}" in told
    found = calls(monkeypatch, 9)
    result = CliRunner().invoke(cli.app, [*command, "--out", str(out)])
    assert (result.exit_code, found) == (0, [200])
    assert "Continues behind 2000 texts" in result.output
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, whole.name])


@pytest.mark.parametrize("name", ["entities.conll", "entities.html"])
def test_a_page_of_entities_continues(
    name: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / f"whole-{name}", tmp_path / name
    home = Path(command[2]).parent
    asked = ["ner", "--file", command[2], "--model", str(home / "tagger")]
    if not (home / "tagger").exists():
        (home / "parts").mkdir()
        folders.write(home / "parts", "RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
        (home / "parts" / "RoBERTa-base-ch").rename(home / "tagger")
    run(*asked, "--out", str(whole))
    answer, found = EntityPipeline.__call__, list[int]()
    stops = [20]

    def counted(self: EntityPipeline, texts: list[str], *given: Any) -> Any:
        found.append(len(texts))
        if len(found) in stops:
            raise KeyboardInterrupt
        return answer(self, texts, *given)

    monkeypatch.setattr(EntityPipeline, "__call__", counted)
    assert CliRunner().invoke(cli.app, [*asked, "--out", str(out)]).exit_code == 130
    assert not out.exists()
    found.clear()
    stops.clear()
    result = CliRunner().invoke(cli.app, [*asked, "--out", str(out)])
    assert (result.exit_code, sum(found)) == (0, 1200)
    assert out.read_bytes() == whole.read_bytes()


def test_arrays_have_the_vectors_of_lines(command: list[str], tmp_path: Path) -> None:
    run(*command, "--out", str(tmp_path / "a.jsonl"))
    run(*command, "--out", str(tmp_path / "a.npy"))
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").open(encoding="utf-8")]
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), np.load(tmp_path / "a.npy"))


def test_nothing_is_overwritten_silently(command: list[str], tmp_path: Path) -> None:
    out, few = tmp_path / "a.jsonl", ["embed", "一", *command[3:], "--out", str(tmp_path / "a.jsonl")]
    out.write_text("mine\n", encoding="utf-8")
    assert "--overwrite" in fails(InputError, *few)
    assert out.read_text(encoding="utf-8") == "mine\n"
    run(*few, "--overwrite")
    assert json.loads(out.read_text(encoding="utf-8"))["text"] == "一"
