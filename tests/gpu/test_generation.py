"""The engine on an accelerator: the same answers, and no waiting for the device at every step."""

import warnings
from typing import Any

import pytest
import torch

from flagai.generation import generate
from tests.generation.writers import PAIRS, SEARCHES, Writer, lively, writer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize(("kind", "search"), PAIRS)
def test_answers_are_those_of_the_cpu(kind: str, search: str) -> None:
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])
    wanted = generate(writing.model, writing.prompts, decoding)
    got = generate(writing.model.cuda(), writing.prompts, decoding)
    for ours, theirs in zip(got, wanted, strict=True):
        if search != "diverse beams":  # groups make answers of exactly the same score, in whatever order
            assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        scores = [answer.score for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx(scores, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("search", "most"),
    [
        *((name, 10) for name in ("greedy", "sampling", "beams", "diverse beams", "contrastive", "careful beams")),
        ("lookup", 24),
    ],
)
def test_most_steps_do_not_wait_for_the_device(search: str, most: int) -> None:
    writing = Writer(lively("GPT2Model", n_positions=150).cuda(), writer("gpt2").prompts)

    def waits(steps: int) -> int:
        options: dict[str, Any] = {**SEARCHES[search], "stop_token_ids": (), "max_new_tokens": steps}
        decoding = writing.decoding(**options)
        generate(writing.model, writing.prompts, decoding)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                generate(writing.model, writing.prompts, decoding)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return len(caught)

    # 64 more steps: eight more questions whether all is done; with drafts, one in three steps.
    assert waits(80) - waits(16) <= most
