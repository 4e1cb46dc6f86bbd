"""Whole answers by the kernels of a step are those of the model's own blocks."""

from typing import Any

import pytest
import torch

from flagai.generation import generate
from flagai.generation.replay import compile_ahead, cuda_graph
from flagai.generation.replay.step_pool import step_pool
from flagai.kernels.decode import t5_block as fused_t5
from tests.generation.writers import PLAIN, SEARCHES, Writer, lively
from tests.kernels.conftest import DEVICE
from tests.kernels.steps import EveryTime
from tests.tiny import GATED

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU, kernels take half precision: see tests/gpu")


@pytest.mark.parametrize(("search", "changes"), [("greedy", GATED), ("beams", {})], ids=["gated", "relu"])
def test_t5(search: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    writing = Writer(lively("T5Model", num_decoder_layers=2, **changes), PLAIN[:2])
    wanted = generate(writing.model, writing.prompts, writing.decoding(**SEARCHES[search], max_new_tokens=5))
    monkeypatch.setattr(cuda_graph, "recorder_for", lambda _: EveryTime())
    monkeypatch.setattr(cuda_graph, "can_record", lambda _: True)
    monkeypatch.setattr(compile_ahead, "PATIENCE", 100)
    monkeypatch.setattr(fused_t5, "has_triton_half", lambda *_: True)
    got = generate(writing.model, writing.prompts, writing.decoding(**SEARCHES[search], max_new_tokens=5))
    assert all("decode.select.fused_t5_blocks" in step.kernels for step in step_pool(writing.model).ready)
    for ours, theirs in zip(got, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)
