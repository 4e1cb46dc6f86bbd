"""What a training writes, when, and what it refuses to write over or to read."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import CheckpointError, ConfigError, FlagAIError, InputError
from flagai.model.bert_model import BertForSequenceLabeling
from flagai.train import trainer
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from flagai.train.run import memory_advice
from flagai.train.state import States
from flagai.train.trainer import Trainer
from tests.train import data

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

ROOT = Path(__file__).parents[2]
# Saved at steps 2, 4, ...; the first evaluation is that of step 6.
RECIPE = Recipe(epochs=4, batch_tokens=64, learning_rate=1e-2, evaluate_every=6, save_every=2, save_minutes=0)


class KilledError(Exception):
    """Stands for the end of the process."""


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    def watch(entry: dict[str, Any]) -> None:
        if entry["step"] >= step > 0:
            raise KilledError

    return watch


def train(home: Path, out: str = "mine", stop: int = 0, recipe: Recipe = RECIPE, **options: Any) -> dict[str, float]:
    file = home / "ner.jsonl"
    watch = stop_at(stop)
    return finetune("ner", "RoBERTa-base-ch", file, home / out, model_dir=home, recipe=recipe, watch=watch, **options)


def log(folder: Path) -> list[dict[str, Any]]:
    """The log without the speed."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in entry.items() if name != "tokens_per_second"} for entry in entries]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    return tmp_path


@pytest.fixture
def cut(home: Path) -> Path:
    """A run that was cut off behind its first evaluation."""
    with pytest.raises(KilledError):
        train(home, stop=9)
    return home


# -- when it is saved ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [4, 9])
def test_a_run_cut_off_between_evaluations_ends_bitwise_like_one_that_was_not(home: Path, stop: int) -> None:
    train(home, "whole")
    with pytest.raises(KilledError):
        train(home, "cut", stop=stop)
    assert not (home / "cut").exists()
    torch.manual_seed(99)
    random.seed(99)
    steps: list[int] = []
    recipe = dataclasses.replace(RECIPE, save_every=5)  # when it is saved may change
    file = home / "ner.jsonl"
    finetune(
        "ner", "RoBERTa-base-ch", file, home / "cut", model_dir=home, recipe=recipe,
        watch=lambda entry: steps.append(entry["step"]),
    )  # fmt: skip
    assert steps[0] == stop - (stop - 1) % 2  # behind the last checkpoint
    assert log(home / "cut") == log(home / "whole")
    name = "model.safetensors"
    assert (home / "cut" / name).read_bytes() == (home / "whole" / name).read_bytes()
    assert not (home / "cut.training").exists()


def test_the_last_evaluation_is_made_up_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(RECIPE, save_every=1, evaluate_every=1000)
    train(home, "whole", recipe=recipe)
    last = log(home / "whole")[-1]["step"]

    class Dies(Trainer):
        def evaluate(self) -> None:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("flagai.train.finetune.Trainer", Dies)
        with pytest.raises(KilledError):
            train(home, "cut", recipe=recipe)
    assert (home / "cut.training" / f"step-{last:08d}").is_dir()
    train(home, "cut", recipe=recipe)
    assert log(home / "cut") == log(home / "whole")


def test_checkpoints_by_time_come_soon_and_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    for cost, expected in ((0.0, [2, 4, 8, 16, 32, 64, 124, 184]), (1.0, [2, 23, 48, 98, 159])):
        now[0] = 0.0
        clock, saved = trainer.SaveTimer(1.0), []
        while len(saved) < len(expected):
            now[0] += 1.0
            if clock.due():
                saved.append(now[0])
                began, now[0] = now[0], now[0] + cost
                clock.saved(began)
        assert saved == expected
    never = trainer.SaveTimer(0)
    now[0] = 1e9
    assert not never.due()


# -- which model is the best ---------------------------------------------------------------------------------------


def test_equal_values_of_the_metric_are_decided_by_the_loss(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=9, batch_tokens=64, learning_rate=1e-3, evaluate_every=1, patience=2)
    losses = iter([3.0, 2.0, 2.0, 1.0, 1.5, float("nan"), 0.5])
    monkeypatch.setattr("flagai.train.trainer.Trainer.validation_loss", lambda _: next(losses))
    monkeypatch.setattr("flagai.train.tasks.Entities.metrics", lambda *_: {"f1": 0.5})
    measured = train(home, recipe=recipe)
    found = [entry["best"] for entry in log(home / "mine") if "best" in entry]
    assert found == [True, True, False, True, False, False]
    assert measured["valid_loss"] == 1.0


def test_a_run_that_learns_nothing_says_what_to_try(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(home, recipe=Recipe(epochs=1, learning_rate=0.0))
    assert "f1 is 0.0 after step" in caplog.text
    assert "--learning-rate (now 0)" in caplog.text


# -- what it writes over -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("stop", [4, 9, 0])
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


# -- damaged checkpoints -------------------------------------------------------------------------------------------


def flip(path: Path, place: float = 0.5) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * place)] ^= 0x10
    path.write_bytes(raw)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    path.unlink()


def fold(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewrite(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")

    return write


def set_step(record: Any) -> Any:
    record["content"]["progress"]["step"] = "six"
    return record


FILES = ["step/pytorch_model.bin", "step/optimizer.bin", "step/random_states_0.pkl", "step/progress.json",
         "best/model.safetensors", "best/config.json", "best/vocab.txt", "log.jsonl"]  # fmt: skip
DAMAGE = {
    **{f"{fault.__name__}-{name}": (name, fault) for fault in (flip, cut_short, empty, zero, remove, fold)
       for name in FILES},
    "list": ("step/progress.json", rewrite(lambda record: [record])),
    "null": ("step/progress.json", rewrite(lambda _: None)),
    "old": ("step/progress.json", rewrite(lambda record: record["content"])),
    "edited": ("step/progress.json", rewrite(set_step)),
    "deep": ("step/progress.json", lambda path: path.write_text("[" * 100_000)),
    "latin": ("step/progress.json", lambda path: path.write_bytes(b'{"content": "\xe9"}')),
    "step": ("step", lambda path: (shutil.rmtree(path), path.write_text("no folder"))),
    "best": ("best", shutil.rmtree),
}  # fmt: skip


def test_a_damaged_checkpoint_is_one_clear_error(cut: Path) -> None:
    """One run for all kinds of damage: each is done to a copy."""
    from accelerate import Accelerator

    engine: Any = None  # not asked: every file is checked before the first is read
    whole = cut / "whole.training"
    (cut / "mine.training").rename(whole)
    settings = json.loads(next(whole.glob("step-*/progress.json")).read_text(encoding="utf-8"))["content"]["settings"]
    short = {"step": next(whole.glob("step-*")).name, "best": next(whole.glob("best-*")).name}
    assert set(DAMAGE) > {"flip-step/random_states_0.pkl", "cut_short-step/random_states_0.pkl"}
    for kind, (name, damage) in DAMAGE.items():
        shutil.rmtree(cut / "mine.training", ignore_errors=True)
        shutil.copytree(whole, cut / "mine.training")
        first, _, rest = name.partition("/")
        damage(cut / "mine.training" / short.get(first, first) / rest)
        with pytest.raises(FlagAIError) as caught:
            States(cut / "mine", Accelerator(cpu=True), engine, settings).load()
        assert isinstance(caught.value, CheckpointError), kind
        assert "is damaged" in str(caught.value), kind
        assert "remove" in str(caught.value), kind
        assert not (cut / "mine").exists(), kind


def test_random_states_that_cannot_be_restored_are_an_error(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate only notes it."""
    monkeypatch.setattr("random.setstate", lambda _: torch.ones(2).view(3))
    with pytest.raises(CheckpointError, match="is damaged"):
        train(cut)


# -- the disk and the memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 6, 11])
def test_a_full_disk_leaves_the_last_checkpoint(home: Path, step: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert step in (3, 6, 11)

    def watch(entry: dict[str, Any]) -> None:
        if entry["step"] == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written.*make room.*step-0000.* is whole"):
            finetune(
                "ner", "RoBERTa-base-ch", home / "ner.jsonl", home / "mine", model_dir=home, recipe=RECIPE, watch=watch
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    train(home)
    train(home, "whole")
    assert log(home / "mine") == log(home / "whole")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("x: can't allocate memory: y")]
)
def test_too_little_memory_says_what_to_lower(error: Exception) -> None:
    words = r"--batch-tokens \(now 4096\).*--checkpoint-activations"
    with pytest.raises(InputError, match=words), memory_advice(Recipe()):
        raise error
    with pytest.raises(RuntimeError, match="other"), memory_advice(Recipe()):
        raise RuntimeError("other")


def test_memory_that_runs_out_in_the_loop_is_no_damage(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The places where other errors of torch mean a damaged checkpoint, or a full disk."""

    def refuse(*_: Any) -> None:
        torch.empty(2**60)

    for place in ("engine.TrainingEngine.load", "engine.TrainingEngine.save", "trainer.Trainer.train_step"):
        with monkeypatch.context() as patch:
            patch.setattr(f"flagai.train.{place}", refuse)
            with pytest.raises(InputError, match=r"Out of memory.*--batch-tokens"):
                train(cut)
    train(cut)


def test_what_cannot_be_is_one_of_the_librarys_errors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {
        "task": "ner", "model_name": "RoBERTa-base-ch", "data": home / "ner.jsonl", "out": home / "mine",
        "model_dir": home, "recipe": RECIPE,
    }  # fmt: skip
    wrong: dict[str, list[Any]] = {
        "task": [None, 3, "x", b"ner"], "model_name": [None, 3, "", "x"], "data": [None, 3, home, home / "x.jsonl"],
        "out": [home / "circle", None, 3, "/", "/proc/x", home / "ner.jsonl" / "x", home / ("x" * 300), "a\0b"],
        "recipe": [{}, "x", 3],
        "columns": [[], "x", {"text": 3}], "valid": [3, home / "x.jsonl"], "model_dir": [3, home / "x"],
    }  # fmt: skip
    (home / "circle").symlink_to(home / "circle")
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(FlagAIError):
                finetune(**given | {name: value})
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp99")
    with pytest.raises(ConfigError, match="ACCELERATE_MIXED_PRECISION"):
        finetune(**given)
    AcceleratorState._reset_state(reset_partial_state=True)


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
