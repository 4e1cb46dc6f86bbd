"""What a training writes over, and which folders it refuses to work in."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import FlagAIError, InputError
from flagai.model.bert_model import BertForSequenceLabeling
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests.train.runs import RECIPE, KilledError, log, train

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_over_without_a_word(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(home, "finished")
    (home / "notes").mkdir()
    (home / "notes" / "config.json").write_text("mine")
    (home / "file").write_text("mine")
    (home / "file2.training").write_text("mine")
    before = content(home)
    for out, words in {
        "finished": "a model that a finished training wrote.*--overwrite",
        "notes": "files: config.json.*--overwrite",
        "RoBERTa-base-ch": "already holds files.*--overwrite",
        "file": "is a file",
        "file2": "is a file",
    }.items():
        with pytest.raises(InputError, match=words):
            train(home, out)
    assert content(home) == before
    monkeypatch.chdir(home / "notes")
    with pytest.raises(InputError, match="working directory"):
        train(home, "notes", overwrite=True)


@pytest.mark.parametrize("stop", [4, pytest.param(9, marks=pytest.mark.slow), 0])
def test_a_model_is_exchanged_whole_or_not_at_all(home: Path, stop: int) -> None:
    """Also the base model itself, which a run that continues reads again."""
    base = home / "RoBERTa-base-ch"
    (base / "notes.txt").write_text("mine")
    before = content(base)
    if stop:
        with pytest.raises(KilledError):
            train(home, "RoBERTa-base-ch", stop=stop, overwrite=True)
        assert content(base) == before
    train(home, "RoBERTa-base-ch", overwrite=True)
    after = content(base)
    assert "pytorch_model.bin" not in after
    assert after["notes.txt"] == b"mine"
    assert json.loads(after["config.json"])["finetuning_task"] == "ner"
    assert BertForSequenceLabeling.from_pretrained(base).config.class_num == 3
    assert not [path for path in home.iterdir() if "training" in path.name]


@pytest.mark.parametrize("name", ["mine.training", "mine.training.old"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_user_is_not_worked_in(home: Path, name: str, overwrite: bool) -> None:
    """All that was in it was removed at the end of the run."""
    (home / name / "notes").mkdir(parents=True)
    (home / name / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="no run wrote"):
        train(home, overwrite=overwrite)
    assert (home / name / "notes" / "mine.txt").read_text() == "mine"


def test_removing_a_training_folder_that_is_cut_off_can_be_gone_on_with(home: Path) -> None:
    folder = home / "mine.training.old"
    (folder / "step-00000002").mkdir(parents=True)
    (folder / "lock").write_text("{}")
    train(home)
    assert not folder.exists()


def test_the_vocabulary_is_that_of_the_weights_if_the_base_is_exchanged(home: Path) -> None:
    vocabulary = home / "RoBERTa-base-ch" / "vocab.txt"
    before = vocabulary.read_bytes()

    def watch(entry: dict[str, Any]) -> None:
        vocabulary.write_bytes(b"another model's\n")

    finetune("ner", "RoBERTa-base-ch", home / "ner.jsonl", home / "mine", model_dir=home, recipe=RECIPE, watch=watch)
    assert (home / "mine" / "vocab.txt").read_bytes() == before


def test_a_link_to_a_folder_stays_one(home: Path) -> None:
    (home / "disk").mkdir()
    (home / "mine").symlink_to(home / "disk")
    train(home)
    assert (home / "mine").is_symlink()
    assert (home / "disk" / "model.safetensors").is_file()


def test_a_run_that_was_cut_off_behind_the_exchange_is_tidied_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("flagai.train.state.Path.rename", die)
        with pytest.raises(KilledError):
            train(home, recipe=dataclasses.replace(RECIPE, save_every=0, evaluate_every=1000, epochs=1))
    # Not even the first checkpoint could be named: the run begins anew.
    real = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if str(target).endswith(".old"):
            raise KilledError
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KilledError):
            train(home)
    before = log(home / "mine")
    train(home)
    assert log(home / "mine") == before
    assert not (home / "mine.training").exists()
    with pytest.raises(InputError, match="finished"):
        train(home)


def test_overwriting_begins_anew_where_another_run_was_cut_off(cut: Path) -> None:
    other = dataclasses.replace(RECIPE, seed=7)
    with pytest.raises(InputError, match=r"seed was 1, now 7.*--overwrite"):
        train(cut, recipe=other)
    train(cut, recipe=other, overwrite=True)
    train(cut, "fresh", recipe=other)
    assert log(cut / "mine") == log(cut / "fresh")


# -- processes -----------------------------------------------------------------------------------------------------


def command(home: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "flagai", "finetune", "ner", "--data", str(home / "ner.jsonl"), "--out",
        str(home / "mine"), "--model-dir", str(home), "--epochs", "40", "--batch-tokens", "64", *options,
    ]  # fmt: skip


def test_two_runs_do_not_write_one_folder(home: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    first = subprocess.Popen(
        command(home, "--save-every", "1", "--workers", "1"), env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        give_up = time.monotonic() + 600
        while not list((home / "mine.training").glob("step-*[0-9]")) and time.monotonic() < give_up:
            time.sleep(0.01)
        with pytest.raises(FlagAIError, match=rf"Another run \(process {first.pid} on"):
            train(home)
    finally:
        first.kill()
        output = first.communicate()[1]
    assert "step 1 of " in output  # no terminal: a line every so often
    # The lock went with the process, whatever its workers do.
    with pytest.raises(KilledError):
        train(home, recipe=Recipe(epochs=40, batch_tokens=64), stop=1)


def test_the_command_line_overwrites_when_asked(home: Path) -> None:
    arguments = command(home, "--epochs", "1")[3:]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InputError)
    done = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert done.exit_code == 0, done.output
