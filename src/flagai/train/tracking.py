"""Trackers of experiments, through Accelerate: each is imported only when it is asked for."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai import settings
from flagai.checks import check_extra
from flagai.errors import InputError
from flagai.train.state import Entry

RUNS = "runs"  # the folder beside the result that trackers with files of their own write into


@dataclass(frozen=True)
class _Tracker:
    """What a tracker needs.

    Args:
        module: what its extra installs.
        begin: called with the folder of runs before it starts.
        options: its keyword arguments for a run that continues behind a step.
    """

    module: str
    begin: Callable[[Path], None] = lambda _: None
    options: Callable[[int], dict[str, Any]] = lambda _: {}


def _begin_mlflow(runs: Path) -> None:
    mlflow: Any = importlib.import_module("mlflow")
    if not mlflow.is_tracking_uri_set():
        runs.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{runs / 'mlflow.db'}")


TRACKERS: Mapping[str, _Tracker] = {
    # What a run wrote behind its last checkpoint is written again.
    "tensorboard": _Tracker("tensorboard", options=lambda step: {"purge_step": step + 1} if step else {}),
    "swanlab": _Tracker("swanlab"),
    "wandb": _Tracker("wandb"),
    "mlflow": _Tracker("mlflow", begin=_begin_mlflow),
    "trackio": _Tracker("trackio"),
}


def read_trackers(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of trackers, from a list or a text with commas.

    Raises:
        InputError: there is none of a name, or its package is not installed.
    """
    parts = names.split(",") if isinstance(names, str) else list(names or ())
    found = tuple(dict.fromkeys(part.strip().lower() for part in parts))
    for name in found:
        if name not in TRACKERS:
            raise InputError(f"track is {name!r:.80}; known: {', '.join(TRACKERS)}.")
        check_extra(name, TRACKERS[name].module)
    return found


def tracked_arguments(library: Any, names: Sequence[str], out: Path) -> dict[str, Any]:
    """What Accelerate's ``Accelerator`` is given so that it tracks."""
    if not names:
        return {}
    settings.disable_telemetry()
    folder = library.utils.ProjectConfiguration(logging_dir=str(out.absolute().parent / RUNS))
    return {"log_with": list(names), "project_config": folder}


@contextlib.contextmanager
def tracking(
    accelerator: Any, names: Sequence[str], out: Path, config: Mapping[str, Any], step: int
) -> Iterator[Callable[[Entry], None]]:
    """Start trackers, and end them behind the body.

    Args:
        accelerator: Accelerate's.
        names: the trackers.
        out: the folder of the result, which names the run.
        config: what describes the run.
        step: the last step that is done, of a run that continues.

    Yields:
        What logs an entry of the training's log: a step's as ``train/...``, an evaluation's as ``valid/...``.
    """
    if not names:
        yield lambda _: None
        return
    runs = out.absolute().parent / RUNS
    for name in names:
        TRACKERS[name].begin(runs)
    plain = {name: value for name, value in config.items() if isinstance(value, bool | int | float | str)}
    accelerator.init_trackers(out.name, plain, {name: TRACKERS[name].options(step) for name in names})

    def log(entry: Entry) -> None:
        part = "train" if "loss" in entry else "valid"
        values = {f"{part}/{name}": value for name, value in entry.items() if name not in ("step", "steps", "best")}
        accelerator.log(values, step=entry["step"])

    try:
        yield log
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
