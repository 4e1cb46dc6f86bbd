"""``finetune``: a task, a model and a data file in, a model's folder out."""

import dataclasses
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from flagai import settings
from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import family_at
from flagai.catalog.tasks import task_named
from flagai.device_support import has_bfloat16
from flagai.errors import ConfigError, InputError
from flagai.model.base_model import BaseModel
from flagai.model.block.compile import compile_blocks
from flagai.model.untrained import untrained
from flagai.train.checksums import data_digest
from flagai.train.finish import finish
from flagai.train.needs import accelerate
from flagai.train.objective import Objective
from flagai.train.output import ADAPTER, ResultFolder
from flagai.train.recipe import Recipe
from flagai.train.records import Data, Record, read_records
from flagai.train.run import TrainingRun, memory_advice
from flagai.train.tasks import Writing, objective_for
from flagai.train.tracking import read_trackers, tracked_arguments, tracking
from flagai.train.trainer import Trainer, Watch
from flagai.typed_json import shown

logger = logging.getLogger(__name__)

_FEWEST = 2
_PLACE = (str, Path)
_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "model_name": _PLACE,
    "data": (*_PLACE, Iterable),
    "out": _PLACE,
    "valid": (*_PLACE, Iterable, NoneType),
    "model_dir": (*_PLACE, NoneType),
    "columns": (Mapping, NoneType),
    "licence": (str, NoneType),
    "recipe": (Recipe,),
}


def finetune(
    task: str,
    model_name: str,
    data: Data,
    out: str | Path,
    *,
    valid: Data | None = None,
    model_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    watch: Watch | None = None,
    track: str | Sequence[str] = (),
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train a model for a task, and write it into a folder that ``AutoLoader`` and the command line take at once.

    Devices and processes are Accelerate's: start with ``accelerate launch`` for several GPUs. Until the run is
    finished, everything is in ``OUT.training``; then the whole model appears in ``out`` in one step. A run that was cut
    off continues where its last checkpoint was written, with the same losses as if nothing had happened.

    Args:
        task: "title-generation", "poetry", "ner", "ner-crf", "ner-gp", "semantic-matching", "classification" or
            "masklm" (for a GLM: filling blanks).
        model_name: the model to start from: a name, or a folder.
        data: the training data; see :func:`flagai.train.records.read_records`.
        out: the folder of the result.
        valid: data for validation; default a part of ``data``.
        model_dir: the model directory.
        columns: which columns of the files stand for those that the task asks for.
        recipe: how to train.
        watch: is told every step and every evaluation.
        track: trackers of experiments: "tensorboard", "swanlab", "wandb", "mlflow" or "trackio".
        licence: the licence of the result, for its card, such as "apache-2.0"; default "unknown".
        overwrite: replace a model that is in ``out``, or an unfinished run with other settings.

    Returns:
        What was measured on the validation data with the best model.

    Raises:
        InputError: the task, the data or the recipe cannot be; ``out`` is not empty; another run writes it; the loss
            is not finite; the memory is too small.
        CheckpointError: a checkpoint is damaged, or cannot be written.
        ConfigError: a library that training needs is not installed, or Accelerate cannot start.
        FlagAIError: the model cannot be loaded.
    """
    recipe = Recipe() if recipe is None else recipe
    _check_types(locals())
    task, out, model_name = task_named(task), Path(out), str(model_name)
    ResultFolder(out, overwrite=overwrite).check()
    library, trackers = accelerate(), read_trackers(track)
    given = read_records(data, columns)
    divided = _split(given, None if valid is None else read_records(valid, columns), recipe)
    accelerator = _accelerator(library, recipe, tracked_arguments(library, trackers, out))
    library.utils.set_seed(recipe.seed)
    # Labels are those of the whole file, wherever chance puts its rows.
    objective = objective_for(task, family_at(model_name, model_dir), given, recipe)
    with memory_advice(recipe):
        run = _training_run(objective, model_name, model_dir, divided, accelerator)
    library.utils.set_seed(recipe.seed, device_specific=True)
    source = _source(task, model_name, data, valid, model_dir, columns)
    described = {
        **{name: source[name] for name in ("task", "model")},
        **{name: source[f"{name}_sha256"] for name in ("data", "valid")},
        "processes": accelerator.num_processes,
        **dataclasses.asdict(recipe),
        "precision": accelerator.mixed_precision,
    }
    trainer = Trainer(run, accelerator, out, described, watch, overwrite=overwrite)
    trainer.resume()
    facts = {
        "task": task,
        "base": model_name,
        "data": Path(data).name if isinstance(data, str | Path) else "a data set",
        "texts": len(run.train),
        "held-out": len(run.valid),
        "licence": licence,
    }
    measured: dict[str, float] = {}
    with tracking(accelerator, trackers, out, described, trainer.progress.step) as log:
        trainer.watches.append(log)
        trainer.fit(lambda folder: measured.update(finish(folder, out, run, trainer, facts, source)))
    accelerator.wait_for_everyone()
    return measured


def _source(
    task: str,
    model_name: str,
    data: Data,
    valid: Data | None,
    model_dir: str | Path | None,
    columns: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What the run was given, as its recipe file says it."""
    places = {"data": data, "valid": valid}
    return {
        "task": task,
        "model": model_name,
        **{name: str(place) if isinstance(place, str | Path) else None for name, place in places.items()},
        **{f"{name}_sha256": None if place is None else data_digest(place) for name, place in places.items()},
        "model_dir": None if model_dir is None else str(model_dir),
        "columns": dict(columns or {}),
    }


def _check_types(arguments: Mapping[str, Any]) -> None:
    for name, kinds in _TYPES.items():
        if not isinstance(arguments[name], kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"{name} is {shown(arguments[name])}; expected {expected}.")


def _accelerator(library: Any, recipe: Recipe, tracked: Mapping[str, Any]) -> Any:
    """Accelerate's, as its environment and configuration say."""
    cure = "Correct ACCELERATE_MIXED_PRECISION, or what `accelerate config` wrote."
    try:
        accelerator = library.Accelerator(
            # Of processes of torchrun without GPUs, Accelerate would take each for the only one.
            cpu=settings.world_size() > 1 and not torch.accelerator.is_available(),
            **tracked,
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.accumulate,
            kwargs_handlers=[library.DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(f"Accelerate cannot start: {error} {cure}") from error
    known = library.utils.PrecisionType.list()
    if accelerator.mixed_precision not in known:
        raise ConfigError(f"Accelerate knows no precision {accelerator.mixed_precision!r}, only {known}. {cure}")
    if accelerator.mixed_precision == "bf16" and not has_bfloat16(accelerator.device):
        raise ConfigError(
            f"{accelerator.device} does not compute in bfloat16 itself. Train in fp16, or without half types."
        )
    return accelerator


def _split(
    records: list[Record], valid: list[Record] | None, recipe: Recipe
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Data for training and for validation."""
    if valid is not None:
        return records, valid
    count = max(1, round(len(records) * recipe.held_out))
    if len(records) - count < _FEWEST:
        raise InputError(f"{records[0].place}: {len(records)} texts are too few to train on and to validate with.")
    chance = random.Random(recipe.seed)  # noqa: S311 - no secret
    order = chance.sample(records, len(records))
    return order[count:], order[:count]


def _training_run(
    objective: Objective,
    model_name: str,
    model_dir: str | Path | None,
    divided: tuple[Sequence[Record], Sequence[Record]],
    accelerator: Any,
) -> TrainingRun:
    """Load the model for the labels that the data has."""
    train, held_out = divided
    for record in held_out:
        objective.check(record)
        objective.check_labels(record)
    recipe, device = objective.recipe, accelerator.device
    packing = recipe.packing if recipe.packing is not None else device.type == "cuda"
    packing = packing and objective.training.packs and objective.packable
    loader = AutoLoader(
        objective.task,
        model_name=model_name,
        model_dir=model_dir,
        device=device,
        torch_dtype=torch.float32,
        fine_tuned=False,
        **objective.settings(),
        **_settings(recipe, packing, accelerator.mixed_precision),
    )
    model = loader.get_model()
    # What config.json says of the training: under transformers' keys, the task and the names of the classes.
    extra = {key: value for key, value in model.config.extra.items() if key not in ("id2label", "label2id")}
    if names := dict(enumerate(objective.names())):
        extra["id2label"] = {str(number): name for number, name in names.items()}
        extra["label2id"] = {name: number for number, name in names.items()}
    model.config = model.config.replace(extra={**extra, "finetuning_task": objective.task})
    if recipe.lora_rank:
        # The head of a language model is pretrained, a new one is not.
        heads = objective.task != "masklm" or bool(untrained(model))
        model.add_adapter(ADAPTER, recipe.lora_rank, heads=heads)
    if recipe.compile:
        compile_blocks(model)
    objective.recipe = fitting(recipe, model, objective)
    tokenizer = loader.get_tokenizer()
    if accelerator.is_main_process and (unlearned := objective.unlearned(tokenizer, train)):
        logger.warning("%s", unlearned)
    return TrainingRun(model, tokenizer, objective, train, held_out, objective.recipe, packing)


def _settings(recipe: Recipe, packing: bool, precision: str) -> dict[str, Any]:
    """What else the model is loaded with."""
    found: dict[str, Any] = {}
    if packing:  # attention over packed texts is fast only without dropout
        found["attention_probs_dropout_prob"] = 0.0
    if recipe.checkpoint_activations:
        found["checkpoint_activations"] = True
    if recipe.fsdp:
        from flagai.parallel.fsdp import FullyShard

        half = torch.bfloat16 if precision == "bf16" else None
        found |= {"mesh": "auto", "fsdp": FullyShard(param_dtype=half, reduce_dtype=torch.float32)}
    return found


def fitting(recipe: Recipe, model: BaseModel, objective: Objective) -> Recipe:
    """The recipe with lengths that the model has positions for.

    Args:
        recipe: the recipe as it was asked for.
        model: the model that is trained.
        objective: what it is trained for.

    Raises:
        InputError: a length that was asked for exceeds the model's positions.
    """
    rows = model.max_positions
    if rows is None:
        return recipe
    written = recipe.max_target_length if isinstance(objective, Writing) else 0
    if written >= rows:
        raise InputError(f"max_target_length is {written}, but the model has {rows} positions. Lower it.")
    return dataclasses.replace(recipe, max_length=min(recipe.max_length, rows - written))
