"""Training in processes of their own: killed ones, and two that train together."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests.train import data

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]


def command(folder: Path, out: str, *options: str) -> list[str]:
    return [
        "-m", "flagai", "finetune", "ner", "--data", str(folder / "ner.jsonl"), "--out", str(folder / out),
        "--model-dir", str(folder), "--epochs", "12", "--batch-tokens", "64", "--lr", "0.02", "--evaluate-every", "4",
        *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """That of a machine without GPUs."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses(folder: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def train(folder: Path, out: str) -> None:
    recipe = Recipe(epochs=6, batch_tokens=64, learning_rate=2e-2, evaluate_every=4)
    finetune("ner", "RoBERTa-base-ch", folder / "ner.jsonl", folder / out, model_dir=folder, recipe=recipe)


def in_a_process(folder: Path, out: str) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=train, args=(folder, out), daemon=True)
    process.start()
    return process


def test_a_killed_run_continues_with_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    in_a_process(tmp_path, "whole").join()
    process = in_a_process(tmp_path, "cut")
    give_up = time.monotonic() + 600
    while not list((tmp_path / "cut.training").glob("step-*[0-9]")) and time.monotonic() < give_up:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(losses(tmp_path / "cut.training")) < len(losses(tmp_path / "whole"))
    in_a_process(tmp_path, "cut").join()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not (tmp_path / "cut.training").exists()


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    begin = time.monotonic()
    in_a_process(tmp_path, "whole").join()
    long, chance, kills = time.monotonic() - begin, random.Random(1), 0
    for number in range(8):
        out = f"cut{number}"
        while not (tmp_path / out).exists() or (tmp_path / f"{out}.training").exists():
            process = in_a_process(tmp_path, out)
            process.join(chance.uniform(0, 1.5 * long))
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
        assert losses(tmp_path / out) == losses(tmp_path / "whole")
        ours, theirs = (tmp_path / name / "model.safetensors" for name in (out, "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert kills > 8
    assert not [path for path in tmp_path.iterdir() if "training" in path.name]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    run = subprocess.run(
        [*launch, *command(tmp_path, "mine")], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "f1 1.0000" in run.stdout
    steps = [step for step, _ in losses(tmp_path / "mine")]
    assert steps == list(range(1, len(steps) + 1))  # one process writes the log
