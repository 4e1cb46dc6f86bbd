"""When a training is saved, which model is the best, and what happens if the disk or the memory is full."""

import dataclasses
import random
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import CheckpointError, ConfigError, FlagAIError, InputError
from flagai.train import trainer
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from flagai.train.run import memory_advice
from flagai.train.trainer import Trainer
from tests.train.runs import RECIPE, KilledError, log, train

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

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


# -- the disk and the memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 6, 11])
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
