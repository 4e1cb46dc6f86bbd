"""Short runs of a training, and what they log."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe

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
