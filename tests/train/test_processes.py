"""Training in processes of their own: killed ones, and two that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train import data

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def command(folder: Path, out: str, *options: str) -> list[str]:
    return [
        "-m", "flagai", "finetune", "ner", "--data", str(folder / "ner.jsonl"), "--out", str(folder / out),
        "--model-dir", str(folder), "--epochs", "12", "--batch-tokens", "64", "--lr", "0.02", "--evaluate-every", "4",
        *options,
    ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | more


def losses(folder: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def test_a_killed_run_continues_with_the_same_losses(tmp_path: Path) -> None:
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    subprocess.run([sys.executable, *command(tmp_path, "whole")], env=environment(), check=True, capture_output=True)
    process = subprocess.Popen([sys.executable, *command(tmp_path, "cut")], env=environment(), stderr=subprocess.PIPE)
    give_up = time.monotonic() + 120
    while not list((tmp_path / "cut.training").glob("step-*[0-9]")) and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(tmp_path / "cut")) < len(losses(tmp_path / "whole"))
    subprocess.run([sys.executable, *command(tmp_path, "cut")], env=environment(), check=True, capture_output=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not (tmp_path / "cut.training").exists()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    run = subprocess.run(
        [*launch, *command(tmp_path, "mine")], env=environment(), capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "f1 1.0000" in run.stdout
    steps = [step for step, _ in losses(tmp_path / "mine")]
    assert steps == list(range(1, len(steps) + 1))  # one process writes the log
