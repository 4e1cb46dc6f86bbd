"""Trackers: what they wrote is read back from their own files, and none is imported before it is asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flagai.errors import InputError
from flagai.train.tracking import RUNS, TRACKERS, read_trackers
from tests.train.runs import KilledError, log, train

NAMES = ("train/loss", "train/learning_rate", "valid/valid_loss", "valid/f1")
Series = dict[int, float]


def tensorboard(folder: Path, run: str, name: str) -> Series:
    events = EventAccumulator(str(folder / RUNS / run))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def from_mlflow(folder: Path, run: str, name: str) -> Series:
    client = mlflow.MlflowClient(f"sqlite:///{folder / RUNS / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["task"] == "ner"
    return {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, name)}


def trackio(folder: Path, run: str, name: str) -> Series:
    """As another process reads it: the place is read from the environment once."""
    script = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "run, = S.get_runs(sys.argv[1])\n"
        "print(json.dumps([[e['step'], e[sys.argv[2]]] for e in S.get_logs(sys.argv[1], run) if sys.argv[2] in e]))"
    )
    done = subprocess.run([sys.executable, "-c", script, run, name], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


READERS: dict[str, Callable[[Path, str, str], Series]] = {
    "tensorboard": tensorboard,
    "mlflow": from_mlflow,
    "trackio": trackio,
}


@pytest.mark.parametrize(
    "tracker",
    ["tensorboard", *(pytest.param(name, marks=pytest.mark.slow) for name in READERS if name != "tensorboard")],
)
def test_what_a_tracker_wrote_is_the_log(home: Path, monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(home / "trackio"))
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    train(home, track=tracker)
    entries = log(home / "mine")
    for name in NAMES:
        key = name.rpartition("/")[2]
        wanted = {entry["step"]: entry[key] for entry in entries if key in entry}
        found = READERS[tracker](home, "mine", name)
        assert found.keys() == wanted.keys() != set(), name
        assert list(found.values()) == pytest.approx(list(wanted.values()), rel=1e-6), name
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_run_that_continues_writes_each_step_once(home: Path) -> None:
    with pytest.raises(KilledError):
        train(home, stop=9, track="tensorboard")
    train(home, track=["tensorboard"])
    wanted = [entry["step"] for entry in log(home / "mine") if "loss" in entry]
    assert sorted(tensorboard(home, "mine", "train/loss")) == wanted


def test_trackers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_trackers(" TensorBoard,mlflow,tensorboard") == ("tensorboard", "mlflow")
    assert read_trackers(None) == ()
    with pytest.raises(InputError, match="track is 'aim'; known: tensorboard, swanlab, wandb, mlflow, trackio"):
        read_trackers("aim")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name in TRACKERS:
        with pytest.raises(InputError, match=rf"needs {name}. Install the extra: pip install 'flagai-lm\[{name}\]'"):
            read_trackers(name)


def test_no_tracker_is_imported_before_it_is_asked_for() -> None:
    script = (
        "import sys, flagai.train.finetune, flagai.cli.training; print([n for n in sys.argv[1:] if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *TRACKERS, "datasets"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
