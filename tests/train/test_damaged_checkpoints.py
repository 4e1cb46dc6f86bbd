"""A checkpoint of a training that was damaged is one clear error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import CheckpointError, FlagAIError
from flagai.train.state import States
from tests.train.runs import train

pytest.importorskip("accelerate")


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
