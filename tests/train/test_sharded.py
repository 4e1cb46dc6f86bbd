"""Training of a model that is sharded over processes (FSDP2), beside replicas of it and beside one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.errors import InputError
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests.parallel.ranks import on_ranks
from tests.train import data

pytest.importorskip("accelerate")
# Without dropout, which draws other numbers in every process.
SETTINGS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RECIPE = {"epochs": 4, "batch_tokens": 64, "learning_rate": 1e-2, "accumulate": 2, "evaluate_every": 3}


class KilledError(Exception):
    """Stands for the end of the process."""


def train(home: Path, file: Path, out: Path, stop: int = 0, **more: Any) -> dict[str, float]:
    """Fine-tune on this rank."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # what the parent's tests left

    def watch(entry: dict[str, Any]) -> None:
        if entry["step"] == stop:
            raise KilledError

    recipe = Recipe(**RECIPE, **more)
    try:
        return finetune("ner", "RoBERTa-base-ch", file, out, model_dir=home, recipe=recipe, watch=watch)
    except KilledError:
        return {}


def losses(out: Path) -> list[float]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry.get("loss", entry.get("valid_loss")) for entry in entries]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    folder = data.home(tmp_path / "home", "RoBERTa-base-ch")
    config = folder / "RoBERTa-base-ch" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | SETTINGS), encoding="utf-8")
    return folder


def test_two_ranks_that_share_a_model_train_as_two_with_replicas(tmp_path: Path, home: Path) -> None:
    file = data.write(tmp_path, "ner")
    measured = [on_ranks(2, train, home, file, tmp_path / "sharded", fsdp=True)[0]]
    measured += [on_ranks(2, train, home, file, tmp_path / "replicas")[0]]
    assert measured[0]["valid_loss"] == pytest.approx(measured[1]["valid_loss"], abs=1e-5)
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "replicas"), abs=1e-5)
    sharded, replicas = (
        AutoLoader("ner", model_name=name, model_dir=tmp_path).get_model().state_dict()
        for name in ("sharded", "replicas")
    )
    assert sharded.keys() == replicas.keys()
    for name, tensor in sharded.items():
        torch.testing.assert_close(tensor, replicas[name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_sharded_run_that_was_cut_off_continues(tmp_path: Path, home: Path) -> None:
    file = data.write(tmp_path, "ner")
    on_ranks(2, train, home, file, tmp_path / "whole", fsdp=True)
    on_ranks(2, cut, home, file, tmp_path / "cut")
    assert len(losses(tmp_path / "cut.training")) < len(losses(tmp_path / "whole"))
    on_ranks(2, train, home, file, tmp_path / "cut", fsdp=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def cut(home: Path, file: Path, out: Path) -> None:
    """Train until the checkpoint of step 3 is there; all ranks stop, as when a job is ended."""
    import flagai.train.trainer

    evaluate = flagai.train.trainer.Trainer.evaluate

    def evaluate_and_die(self: Any) -> None:
        evaluate(self)
        raise KilledError

    flagai.train.trainer.Trainer.evaluate = evaluate_and_die  # type: ignore[method-assign]
    train(home, file, out, fsdp=True)


def test_adapters_are_not_sharded() -> None:
    with pytest.raises(InputError, match="lora_rank"):
        Recipe(fsdp=True, lora_rank=4)
