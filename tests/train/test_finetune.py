"""Fine-tuning from end to end, on tiny models with real vocabularies."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from flagai.auto_model.auto_loader import AutoLoader
from flagai.cli import app
from flagai.errors import InputError
from flagai.model.predictor.predictor import Predictor
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests.train import data

pytest.importorskip("accelerate")
FAST = Recipe(epochs=1, batch_tokens=80, learning_rate=1e-2, max_length=40, max_target_length=16, generated=2)
RUNS = [
    ("ner", "RoBERTa-base-ch"),
    ("ner-crf", "RoBERTa-base-ch"),
    ("ner-gp", "RoBERTa-base-ch"),
    ("classification", "RoBERTa-base-ch"),
    ("classification", "GLM-large-ch"),
    ("semantic-matching", "RoBERTa-base-ch"),
    ("title-generation", "RoBERTa-base-ch"),
    ("title-generation", "GLM-large-ch"),
    ("title-generation", "GPT2-base-ch"),
    ("title-generation", "T5-base-en"),
    ("poetry", "GLM-large-ch"),
    ("masklm", "RoBERTa-base-ch"),
    ("masklm", "GLM-large-ch"),
]


def answer(task: str, run: Predictor) -> Any:
    """What the task's method says about a text."""
    if task.startswith("ner"):
        return run.predict_ner("我在北京看书")
    if task in ("classification", "semantic-matching"):
        return run.predict_cls_classifier(["北京", "北京"] if task == "semantic-matching" else "很好看")
    if task == "masklm":
        return run.fill_blanks("北京是[MASK]座城市", out_max_length=3)
    return run.write("北京今天下雨", out_max_length=4)


@pytest.mark.parametrize(("task", "model"), RUNS)
def test_the_result_loads_at_once_and_stands_for_itself(tmp_path: Path, task: str, model: str) -> None:
    home = data.home(tmp_path / "home", model)
    measured = finetune(task, model, data.write(tmp_path, task), tmp_path / "out" / "mine", model_dir=home, recipe=FAST)
    assert measured["valid_loss"] > 0
    assert {"accuracy", "f1", "rouge_l", "perplexity"} & set(measured)
    loader = AutoLoader(task, model_name="mine", model_dir=tmp_path / "out")
    answer(task, Predictor(loader.get_model(), loader.get_tokenizer()))
    left = {path.name for path in (tmp_path / "out" / "mine").iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "curve.svg", "log.jsonl"} <= left
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    losses = [json.loads(line) for line in (tmp_path / "out" / "mine" / "log.jsonl").read_text().splitlines()]
    assert sum("loss" in entry for entry in losses) >= 2


@pytest.mark.parametrize("packing", [False, True])
def test_entities_are_learned(tmp_path: Path, packing: bool) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    recipe = Recipe(epochs=8, batch_tokens=64, learning_rate=2e-2, packing=packing)
    assert (
        finetune(
            "ner", "RoBERTa-base-ch", data.write(tmp_path, "ner"), tmp_path / "mine", model_dir=home, recipe=recipe
        )["f1"]
        == 1
    )
    loader = AutoLoader("ner", model_name="mine", model_dir=tmp_path)
    run = Predictor(loader.get_model(), loader.get_tokenizer())
    assert run.predict_ner("我在北京看书") == [(2, 3, "LOC")]
    output = CliRunner().invoke(app, ["ner", "--model", str(tmp_path / "mine"), "我在上海看书", "--json"]).output
    assert "LOC" in output


def test_the_best_model_is_kept_and_a_long_wait_ends_the_run(tmp_path: Path) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    recipe = Recipe(epochs=30, batch_tokens=400, learning_rate=2e-2, patience=2, schedule="constant")
    measured = finetune(
        "classification",
        "RoBERTa-base-ch",
        data.write(tmp_path, "classification"),
        tmp_path / "mine",
        model_dir=home,
        recipe=recipe,
    )
    evaluations = [
        entry
        for line in (tmp_path / "mine" / "log.jsonl").read_text().splitlines()
        if "best" in (entry := json.loads(line))
    ]
    assert len(evaluations) < 30
    assert [entry["best"] for entry in evaluations][-2:] == [False, False]
    assert measured["accuracy"] == max(entry["accuracy"] for entry in evaluations)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("task", [pytest.param("ner-crf", marks=pytest.mark.slow), "masklm"])
def test_a_run_that_was_cut_off_continues_as_if_nothing_had_happened(tmp_path: Path, task: str) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    file = data.write(tmp_path, task)
    recipe = Recipe(epochs=3, batch_tokens=64, learning_rate=1e-2, evaluate_every=3, accumulate=2)

    def losses(out: str, stop: int = 0) -> list[float]:
        def watch(entry: dict[str, Any]) -> None:
            if entry["step"] == stop:
                raise KilledError

        finetune(task, "RoBERTa-base-ch", file, tmp_path / out, model_dir=home, recipe=recipe, watch=watch)
        entries = [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        return [entry.get("loss", entry.get("valid_loss")) for entry in entries]

    whole = losses("whole")
    with pytest.raises(KilledError):
        losses("cut", stop=5)
    torch.manual_seed(99)  # another process has other random numbers
    assert losses("cut") == whole
    one, other = (AutoLoader(task, model_name=name, model_dir=tmp_path).get_model() for name in ("whole", "cut"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# With a rate of 0 no evaluation is better than the first: the second ends the run, two epochs before the last.
@pytest.mark.parametrize(
    "recipe", [{"learning_rate": 0.0, "patience": 1}, {"learning_rate": 1e-2, "evaluate_every": 5}]
)
def test_a_run_that_was_cut_off_behind_its_last_step_is_only_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    file, out = data.write(tmp_path, "ner"), tmp_path / "mine"

    def run() -> str:
        chosen = Recipe(epochs=4, batch_tokens=64, **recipe)
        finetune("ner", "RoBERTa-base-ch", file, out, model_dir=home, recipe=chosen)
        return (out / "log.jsonl").read_text()

    def die(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("flagai.train.finish.write_card", die)
        with pytest.raises(KilledError):
            run()
    before = (tmp_path / "mine.training" / "log.jsonl").read_text()
    assert not out.exists()
    assert sum("valid_loss" in line for line in before.splitlines()[-2:]) == 1
    assert run() == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    file = data.write(tmp_path, "ner")

    def watch(entry: dict[str, Any]) -> None:
        if entry["step"] == 3:
            raise KilledError

    recipe = Recipe(epochs=2, batch_tokens=64, evaluate_every=2)
    with pytest.raises(KilledError):
        finetune("ner", "RoBERTa-base-ch", file, tmp_path / "mine", model_dir=home, recipe=recipe, watch=watch)
    other = Recipe(epochs=2, batch_tokens=64, evaluate_every=2, seed=7)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"seed was 1, now 7.*remove the folder"):
        finetune("ner", "RoBERTa-base-ch", file, tmp_path / "mine", model_dir=home, recipe=other)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_line_trains_and_complains(tmp_path: Path) -> None:
    home = data.home(tmp_path, "RoBERTa-base-ch")
    file = tmp_path / "data.csv"
    file.write_text("review,label\n" + "".join(f"好{i},{i % 2}\n" for i in range(12)), encoding="utf-8")
    arguments = ["finetune", "classification", "--data", str(file), "--out", str(tmp_path / "mine"), "--epochs", "1"]
    arguments += ["--model-dir", str(home)]
    broken = CliRunner().invoke(app, arguments)
    assert isinstance(broken.exception, InputError)
    assert "--column text=NAME" in str(broken.exception)
    assert "is a file" in str(CliRunner().invoke(app, [*arguments, "--out", str(file)]).exception)
    done = CliRunner().invoke(app, [*arguments, "--column", "text=review"])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output
