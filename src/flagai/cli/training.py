"""``flagai finetune`` and ``flagai evaluate``."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from flagai import settings
from flagai.cli.command import command, typed
from flagai.cli.loading import check_place
from flagai.cli.options import Json, Model, ModelDir
from flagai.errors import InputError, printable
from flagai.train.recipe import Recipe

_SECONDS_BETWEEN_LINES = 10.0
_TASKS = (
    "title-generation, poetry, ner, ner-crf, ner-gp, semantic-matching, classification, embedding, writing or masklm."
)
_MEASURED = "ner, ner-crf, ner-gp, classification, semantic-matching, title-generation, poetry, masklm, lm or writing."
_DATA = "JSON Lines, CSV, TSV or CoNLL, also as .gz; Parquet; a directory of datasets' save_to_disk."
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Column mapping TASK_COLUMN=FILE_COLUMN, such as text=abstract. Repeatable."),
]


@command(
    without=("warmup", "weight_decay", "clip", "held_out", "packing", "generated"),
    spelled={"learning_rate": ("--learning-rate", "--lr"), "lora_rank": ("--lora",)},
)
def finetune(
    context: typer.Context,
    recipe: Recipe,
    task: Annotated[str | None, typer.Argument(help=_TASKS)] = None,
    data: Annotated[Path | None, typer.Option(help=_DATA)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output directory.")] = None,
    recipe_file: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="TOML file with arguments and settings; options on the command line override it."
        ),
    ] = None,
    model: Model = "RoBERTa-base-ch",
    valid: Annotated[Path | None, typer.Option(help="Validation data. Default: a part of the training data.")] = None,
    column: Columns = None,
    model_dir: ModelDir = None,
    licence: Annotated[str | None, typer.Option(help="The licence of the result, for its card: apache-2.0.")] = None,
    track: Annotated[
        str | None, typer.Option(help="Trackers, joined by commas: tensorboard, swanlab, wandb, mlflow, trackio.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Overwrite the model in --out, or an unfinished run with other settings."),
    ] = False,
) -> None:
    """Fine-tune a model. An interrupted run resumes when the command is repeated.

    Several GPUs: accelerate launch -m flagai finetune ...
    """
    columns = dict(_pair(entry) for entry in column or [])
    options: dict[str, Any] = {
        "task": task,
        "model": model,
        "data": data,
        "out": out,
        "valid": valid,
        "model_dir": model_dir,
        "track": track or (),
        "licence": licence,
    }
    options |= {"columns": columns, **asdict(recipe)}
    given = {} if recipe_file is None else _read(recipe_file, [*typed(context), *["columns"] * bool(columns)])
    chosen = {**options, **given}
    recipe = Recipe(**{field.name: chosen.pop(field.name) for field in fields(Recipe)})
    for name, cure in (("task", "`flagai finetune ner ...`"), ("data", "--data FILE"), ("out", "--out FOLDER")):
        if chosen[name] is None:
            raise InputError(f"No {name} is given. Add {cure}, or `{name} = ...` to the file of --recipe.")
    places = {"model_name": chosen.pop("model"), "data": chosen.pop("data"), "out": chosen.pop("out")}
    from flagai.train.finetune import finetune as train

    with progress(places["out"]) as watch:
        measured = train(**places, **chosen, recipe=recipe, watch=watch, overwrite=overwrite)
    out = places["out"]
    for name, value in measured.items():
        typer.echo(f"{name} {value:.4f}")
    if measured:
        typer.echo(f"The model is in {out}.")


@command()
def evaluate(
    task: Annotated[
        str,
        typer.Argument(help=_MEASURED),
    ],
    data: Annotated[Path, typer.Option(help=_DATA)],
    model: Model,
    column: Columns = None,
    model_dir: ModelDir = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Maximum number of input tokens. Default: all for entities, else 512.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:1. Default: the GPU if there is one, else the CPU.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file of the whole report: .txt, .html or .json.")
    ] = None,
    mistakes: Annotated[int, typer.Option(min=0, help="Number of mistakes that are printed.")] = 10,
    as_json: Json = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the file of --out.")] = False,
) -> None:
    """Evaluate a model on labelled data: metrics of the task, a confusion matrix, and mistakes."""
    from flagai.evaluation.evaluate import evaluate as measure
    from flagai.evaluation.report import as_json as in_json
    from flagai.evaluation.report import as_text, check_report, write_report

    check_place(device)
    if out is not None:
        check_report(out, overwrite=overwrite)
    columns = dict(_pair(entry) for entry in column or [])
    place: dict[str, Any] = {"model_dir": model_dir, "columns": columns, "device": device, "max_length": max_length}
    found = measure(task, model, data, **place)
    typer.echo(in_json(found) if as_json else printable(as_text(found, mistakes)), nl=False)
    if out is not None:
        write_report(found, out)


def _read(path: Path, typed_names: Sequence[str]) -> dict[str, Any]:
    """What a recipe file says, but for options that were typed; the files that it names have the content it expects."""
    from flagai.train.run_file import check_digests, read_run

    found = {name: value for name, value in read_run(path).items() if name not in typed_names}
    check_digests(found)
    return {name: value for name, value in found.items() if not name.endswith("_sha256")}


def _pair(entry: str) -> tuple[str, str]:
    wanted, equals, given = entry.partition("=")
    if not (wanted and equals and given):
        raise InputError(f"--column {entry!r} is not a pair. Write it as --column text=abstract.")
    return wanted, given


@contextlib.contextmanager
def progress(out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with loss and speed on a terminal, else a line every so often; evaluations are lines of their own."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    seen = sys.stderr.isatty()
    # The others of torchrun are told nothing.
    with Progress(*columns, console=console, disable=bool(settings.rank()) or not seen) as bars:
        bar = bars.add_task("", total=None)
        next_line = 0.0

        def watch(entry: dict[str, Any]) -> None:
            nonlocal next_line
            if "loss" not in entry:
                values = [f"{name} {value:.4f}" for name, value in entry.items() if isinstance(value, float)]
                say(f"step {entry['step']}: {', '.join(values)}{' (best)' if entry['best'] else ''}")
                return
            text = f"loss {entry['loss']:.3f}, {entry['tokens_per_second']} tokens/s"
            bars.update(bar, completed=entry["step"], total=entry["steps"], description=text)
            if not seen and time.monotonic() >= next_line:
                say(f"step {entry['step']} of {entry['steps']}: {text}")
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

        def say(line: str) -> None:
            console.print(line) if seen else typer.echo(line, err=True)

        try:
            yield watch
        except KeyboardInterrupt:
            say(f"Stopped. The same command continues; the best model so far is in {out}.training.")
            raise
