"""``flagai finetune``."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from flagai import settings
from flagai.cli.entries import Home, Model
from flagai.errors import InputError

_SECONDS_BETWEEN_LINES = 10.0

Task = Annotated[
    str,
    typer.Argument(help="title-generation, poetry, ner, ner-crf, ner-gp, semantic-matching, classification or masklm."),
]
Data = Annotated[Path, typer.Option("--data", help="JSON lines, CSV or CoNLL, also as .gz.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the result.")]
Valid = Annotated[Path | None, typer.Option("--valid", help="Data for validation; default a part of the data.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="task's column=column of the file, such as text=abstract.")
]
Epochs = Annotated[int, typer.Option(min=1, help="How often the data is seen.")]
Rate = Annotated[float, typer.Option("--learning-rate", "--lr", help="The highest learning rate.")]
HeadRate = Annotated[float, typer.Option("--head-rate", min=0, help="Factor on the learning rate of new heads.")]
Tokens = Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens of a batch of one process.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per step.")]
Schedule = Annotated[str, typer.Option(help="How the learning rate falls: cosine, linear or constant.")]
MaxLength = Annotated[int, typer.Option("--max-length", help="How many tokens of a text are read.")]
TargetLength = Annotated[int, typer.Option("--max-target-length", help="How many tokens a title or a poem may have.")]
Every = Annotated[int, typer.Option("--evaluate-every", min=0, help="Steps between evaluations; 0: once an epoch.")]
Patience = Annotated[int, typer.Option(min=0, help="Stop after so many evaluations without a better one; 0: never.")]
SaveEvery = Annotated[int, typer.Option("--save-every", min=0, help="Steps between checkpoints; 0: by time only.")]
SaveMinutes = Annotated[
    float, typer.Option("--save-minutes", min=0, help="Minutes between checkpoints, the first ones sooner; 0: none.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a model in --out, or an unfinished run with other settings.")
]
Lora = Annotated[int, typer.Option("--lora", min=0, help="Train LoRA adapters of this rank; 0: all parameters.")]
Recompute = Annotated[bool, typer.Option("--checkpoint-activations", help="Less memory, a third more time.")]
Fsdp = Annotated[bool, typer.Option("--fsdp", help="Shard the training over all processes of torchrun (FSDP2).")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the blocks: slower to begin, then faster.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that make batches; default some on GPUs.")]
Seed = Annotated[int, typer.Option(help="The same number trains the same model.")]


def finetune(
    task: Task,
    data: Data,
    out: Out,
    model: Model = "RoBERTa-base-ch",
    valid: Valid = None,
    column: Columns = None,
    epochs: Epochs = 3,
    learning_rate: Rate = 5e-5,
    head_rate: HeadRate = 1.0,
    batch_tokens: Tokens = 4096,
    accumulate: Accumulate = 1,
    schedule: Schedule = "cosine",
    max_length: MaxLength = 256,
    max_target_length: TargetLength = 80,
    evaluate_every: Every = 0,
    patience: Patience = 0,
    save_every: SaveEvery = 0,
    save_minutes: SaveMinutes = 10.0,
    lora: Lora = 0,
    checkpoint_activations: Recompute = False,
    fsdp: Fsdp = False,
    compile: Compile = False,  # noqa: A002 - the option's name
    workers: Workers = None,
    seed: Seed = 1,
    model_dir: Home = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a model for a task. Cut off, the same command continues; `accelerate launch -m flagai` uses many GPUs."""
    options = dict(locals())
    from flagai.train.finetune import finetune as train
    from flagai.train.recipe import Recipe

    # Options have the names of the recipe's fields, but for one.
    same = {entry.name for entry in dataclasses.fields(Recipe)} & options.keys()
    recipe = Recipe(lora_rank=lora, **{name: options[name] for name in same})
    columns = dict(_pair(entry) for entry in column or [])
    with _watching(out) as watch:
        measured = train(
            task,
            model,
            data,
            out,
            valid=valid,
            model_dir=model_dir,
            columns=columns,
            recipe=recipe,
            watch=watch,
            overwrite=overwrite,
        )
    for name, value in measured.items():
        typer.echo(f"{name} {value:.4f}")
    if measured:
        typer.echo(f"The model is in {out}.")


def _pair(entry: str) -> tuple[str, str]:
    wanted, equals, given = entry.partition("=")
    if not (wanted and equals and given):
        raise InputError(f"--column {entry!r} is no pair. Write it as --column text=abstract.")
    return wanted, given


@contextlib.contextmanager
def _watching(out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with loss and speed on a terminal, else a line every so often; evaluations are lines of their own.

    Args:
        out: the folder of the result.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    seen = sys.stderr.isatty()
    # The others of torchrun are told nothing.
    with Progress(*columns, console=console, disable=bool(settings.rank()) or not seen) as progress:
        bar = progress.add_task("", total=None)
        next_line = 0.0

        def watch(entry: dict[str, Any]) -> None:
            nonlocal next_line
            if "loss" not in entry:
                values = [f"{name} {value:.4f}" for name, value in entry.items() if isinstance(value, float)]
                say(f"step {entry['step']}: {', '.join(values)}{' (best)' if entry['best'] else ''}")
                return
            text = f"loss {entry['loss']:.3f}, {entry['tokens_per_second']} tokens/s"
            progress.update(bar, completed=entry["step"], total=entry["steps"], description=text)
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
