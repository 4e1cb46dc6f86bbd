"""Under torchrun, one rank speaks HTTP, and all of them compute one model."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flagai
from tests.serve.processes import PATIENCE, ServerProcess

POEMS = ["春江花月夜", "秋思"]


def start(*models: str) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "flagai", "serve"]
    command = [sys.executable, *torchrun, *models, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, by their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {int(child): Path(f"/proc/{child}/environ").read_bytes() for child in children}
    ranks = {child: text.partition(b"\0RANK=")[2].partition(b"\0")[0] for child, text in environments.items()}
    return sorted((child for child, rank in ranks.items() if rank), key=lambda child: int(ranks[child]))


@pytest.mark.slow
def test_ranks_share_a_model_and_end_together() -> None:
    process = start("GLM-mini-ch")
    try:
        server = ServerProcess(process)
        found = server.answer("/v1/poem", text=POEMS, seed=1)
        assert [each["answers"][0]["text"] for each in found["results"]] == flagai.load("poetry")(POEMS, seed=1)
        filled = server.answer("/v1/fill", text="春眠不觉晓，[sMASK]。", max_new_tokens=12)
        wanted = flagai.load("masklm", "GLM-mini-ch")("春眠不觉晓，[sMASK]。", out_max_length=12)
        assert filled["results"][0]["fillings"][0]["text"] == wanted[0].text
        assert server.answer("/v1/classify", text="春", labels=["春", "秋"])["results"]
        asked = {"text": "春", "max_new_tokens": 60, "min_new_tokens": 60, "stream": True}
        with server.client.stream("POST", "/v1/poem", json=asked) as answer:
            parts = answer.iter_lines()
            next(parts)
            process.send_signal(signal.SIGTERM)
            assert '"answer"' in [line for line in parts if line][-1], "it is finished"
        process.wait(PATIENCE)
    finally:
        process.kill()


@pytest.mark.slow
def test_a_server_ends_with_its_ranks() -> None:
    process = start("GLM-mini-ch")
    try:
        server = ServerProcess(process)
        assert server.answer("/v1/poem", text="春", max_new_tokens=3)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        assert process.wait(PATIENCE) != 0
    finally:
        process.kill()


@pytest.mark.slow
def test_ranks_share_one_model_only() -> None:
    process = start("GLM-mini-ch", "all-MiniLM-L6-v2")
    _, told = process.communicate(timeout=PATIENCE)
    assert "Under torchrun one model is served, not 2" in told
    assert process.returncode
