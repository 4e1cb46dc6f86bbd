"""The command line under torchrun: results come once, errors say who met them."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flagai.cli.output import in_batches
from flagai.cli.training import progress
from tests import folders

MATCH = ["match", "A man is playing a guitar.", "Someone plays an instrument."]


def as_rank(rank: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as torchrun starts it."""
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return subprocess.run(
        [sys.executable, "-m", "flagai", *arguments], env=os.environ | variables, capture_output=True, text=True
    )


def test_only_the_first_rank_prints() -> None:
    first, second = as_rank(0, "show", "GLM-large-ch"), as_rank(1, "show", "GLM-large-ch")
    assert "GLM-large-ch" in first.stdout
    assert (second.stdout, second.returncode) == ("", 0)


def test_every_rank_tells_its_errors(tmp_path: Path) -> None:
    for rank in (0, 1):
        result = as_rank(rank, "verify", "no-such-model", "--path", str(tmp_path))
        assert result.returncode == 1
        assert result.stderr.startswith(f"[rank {rank}] error: ")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_draws_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    texts: list[Any] = ["a", "b"]
    for name, number in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(number))
    monkeypatch.setattr("sys.stderr", screen := Screen())
    with progress(tmp_path):
        pass
    training = screen.getvalue()
    assert list(in_batches(texts, 1)) == [["a"], ["b"]]
    drawn = bool(training), screen.getvalue() != training
    assert drawn == (rank == 0, rank == 0)


@pytest.mark.slow
def test_a_command_runs_under_torchrun() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "flagai", *MATCH]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.6674"]


@pytest.mark.slow
def test_two_processes_write_a_title_together(tmp_path: Path) -> None:
    folders.write(tmp_path, "GLM-large-ch", "GLMForSeq2Seq", hidden_size=16, num_attention_heads=4)
    title = ["title", "今天天气不错", "--model-dir", str(tmp_path), "--max-length", "5", "--device", "cpu"]
    variables = os.environ | {"FLAGAI_OFFLINE": "1"}
    alone = subprocess.run([sys.executable, "-m", "flagai", *title], env=variables, capture_output=True, text=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "flagai", *title]
    together = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert together.returncode == 0, together.stderr
    assert together.stdout == alone.stdout != ""
