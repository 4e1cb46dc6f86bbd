"""What is written beside a trained model: measures, curve, card and recipe."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flagai import __version__
from flagai.model.predictor.predictor import Predictor
from flagai.train.card import write_card
from flagai.train.curve import write_curve
from flagai.train.metrics import perplexity
from flagai.train.output import CURVE
from flagai.train.run import TrainingRun
from flagai.train.run_file import RECIPE_FILE, write_run
from flagai.train.trainer import Trainer

logger = logging.getLogger(__name__)


def finish(
    folder: Path, out: Path, run: TrainingRun, trainer: Trainer, facts: Mapping[str, Any], source: Mapping[str, Any]
) -> dict[str, float]:
    """Measure the best model as it lies in its folder, and write beside it what was found and what repeats the run.

    Args:
        folder: where the model is.
        out: where it will be.
        run: what was trained.
        trainer: what trained it.
        facts: what the card says, see :func:`flagai.train.card.write_card`.
        source: what the run was given, see :func:`flagai.train.run_file.write_run`.
    """
    _write_recipe(folder, source, run, trainer.accelerator)
    best = run.model.own_class.from_pretrained(folder, device=run.model.device)
    predictor = Predictor(best, run.tokenizer)
    entries = trainer.log.entries()
    losses = [entry for entry in entries if "valid_loss" in entry]
    at_best = next((entry for entry in losses if entry["step"] == trainer.progress.best_step), {})
    measured = {name: value for name, value in at_best.items() if name not in ("step", "best")}
    if run.objective.metric == "-loss" and measured:
        measured["perplexity"] = perplexity(measured["valid_loss"])
    measured |= run.objective.final_metrics(predictor, run.valid)
    curves = {
        "training loss": [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry],
        "validation loss": [(entry["step"], entry["valid_loss"]) for entry in losses],
    }
    write_curve(folder / CURVE, curves, f"{out.name}: {facts['task']}")
    write_card(folder, facts, dataclasses.asdict(run.recipe), measured, out)
    if measured.get(run.objective.metric) == 0:
        recipe = run.recipe
        logger.warning(
            "The %s is 0.0 after step %d, the last one: no answer is right. Train for longer (--epochs, now %d), with "
            "a higher --learning-rate (now %g) or --head-rate (now %g), or with more data; and compare the labels of "
            "the training and the validation data.",
            *(run.objective.metric, trainer.progress.step, recipe.epochs, recipe.learning_rate, recipe.head_rate),
        )
    return measured


def _write_recipe(folder: Path, source: Mapping[str, Any], run: TrainingRun, accelerator: Any) -> None:
    """Write what repeats the run: with what was chosen for it where its recipe left that open."""
    used = dataclasses.replace(run.recipe, packing=run.packing, precision=accelerator.mixed_precision)
    notes = f"flagai {__version__}, torch {torch.__version__}, on {accelerator.device.type}"
    write_run(folder / RECIPE_FILE, source, used, f"{notes}, processes: {accelerator.num_processes}")
