"""Prompts that are read by replay leave the cache as prompts that are read as they are."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from flagai.generation import Prompt, generate
from flagai.generation.replay.steps import captured_steps
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention
from tests.generation.tape import TapeRecorder, taped
from tests.generation.writers import Writer, writer

DECODERS = ("gpt2", "glm", "glm-one-position", "glm-blanks", "bert")


@pytest.fixture
def tape() -> Iterator[TapeRecorder]:
    with taped() as recorder:
        yield recorder


def prompts_of(kind: str, lengths: Sequence[int], seed: int = 0) -> list[Prompt]:
    """Texts of these lengths."""
    chance, found = random.Random(seed), []
    for length in lengths:
        ids = tuple(chance.randint(1, 13) for _ in range(length))
        found.append(Prompt(ids, (chance.randrange(length),) if kind == "glm-blanks" else ()))
    return found


def assert_same(writing: Writer, prompts: Sequence[Prompt], **options: Any) -> None:
    """Captured steps write what steps write that are run as they are."""
    decoding = writing.decoding(max_new_tokens=3, **options)
    plain = writing.decoding(max_new_tokens=3, cuda_graphs=False, **options)
    found, wanted = generate(writing.model, prompts, decoding), generate(writing.model, prompts, plain)
    for ours, theirs in zip(found, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


def sizes(writing: Writer) -> list[int]:
    """The numbers of tokens of the calls that have been captured."""
    return sorted(key.tokens for steps in captured_steps(writing.model) for key in steps.prompts)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.usefixtures("tape")
def test_prompts_of_any_lengths_share_a_recording(kind: str) -> None:
    """Fewer, more, longer and shorter texts than when it was recorded."""
    writing = writer(kind)
    for seed, lengths in enumerate(([3, 5], [4, 2, 9], [7], [5] * 8, [16, 2, 3], [12, 11, 13], [2])):
        assert_same(writing, prompts_of(kind, lengths, seed))
    assert sizes(writing) == [64]


def test_what_is_recorded(tape: TapeRecorder) -> None:
    """The first call makes the pool, the second is run as it is, the third is recorded."""
    writing, counts = writer("gpt2"), []
    for seed in range(5):
        before = tape.recorded
        assert_same(writing, prompts_of("gpt2", [seed + 3], seed))
        counts.append(tape.recorded - before)
    assert counts == [2, 0, 2, 0, 0], "a forward pass and a search step; their inputs of a new text and a prompt"


@pytest.mark.usefixtures("tape")
def test_more_tokens_have_recordings_of_their_own() -> None:
    writing = writer("glm")
    for seed, lengths in enumerate(([9] * 8, [12] * 5, [16] * 8, [10] * 6, [15] * 8, [9] * 8)):
        assert_same(writing, prompts_of("glm", lengths, seed))
    assert sizes(writing) == [64, 128]


@pytest.mark.usefixtures("tape")
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_others_are_read_as_they_are(kind: str) -> None:
    """Too many texts; an encoder's; and those whose hidden states are kept."""
    writing = writer(kind)
    options: dict[str, Any] = {"penalty_alpha": 0.5, "top_k": 3} if kind == "gpt2" else {}
    for seed, lengths in enumerate(([4] * 17, [3] * 18, [5, 2], [6])):
        assert_same(writing, prompts_of(kind, lengths, seed), **(options if len(lengths) < 17 else {}))
    assert sizes(writing) == []


@pytest.mark.usefixtures("tape")
def test_a_cache_that_has_grown_is_captured_anew() -> None:
    writing = writer("gpt2")
    for seed, lengths in enumerate(([4], [5], [6], [7])):
        assert_same(writing, prompts_of("gpt2", lengths, seed))
    assert_same(writing, prompts_of("gpt2", [16] * 80))
    assert sizes(writing) == [1536], "of a small model all prompts are captured"
    for seed, lengths in enumerate(([4], [5], [6])):
        assert_same(writing, prompts_of("gpt2", lengths, seed))
    assert sizes(writing) == [64, 1536]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_lengths_on_the_device(causal: bool) -> None:
    """Empty texts change nothing."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 12, 8)
    row = PackedRow((3, 1, 5, 3))
    wanted = scaled_dot_product_attention(query, key, value, AttentionMask(packed=row, causal=causal))
    starts = torch.tensor([0, 3, 4, 9, 9, 9, 12], dtype=torch.int32)
    mask = AttentionMask(packed=PackedRow((12,)), causal=causal, cu_seqlens=starts, static=True)
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value, mask), wanted)
