"""Beams in groups, and words that must occur."""

import itertools
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.forced import ForcedWords
from tests.generation.test_properties import exhaustive, same
from tests.generation.toys import toy
from tests.generation.writers import KINDS, Writer, lively, writer


def contains(ids: tuple[int, ...], word: tuple[int, ...]) -> bool:
    return any(ids[start : start + len(word)] == word for start in range(len(ids)))


WORDS = ((9, 8), (6,), (9, 9, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_contain_the_forced_words(kind: str) -> None:
    writing = writer(kind)
    decoding = writing.decoding(num_beams=5, num_return_sequences=3, force_words_ids=WORDS, max_new_tokens=9)
    plain = generate(writing.model, writing.prompts, writing.decoding(num_beams=5))
    assert not all(contains(row[0].ids, word) for row in plain for word in WORDS)
    for row in generate(writing.model, writing.prompts, decoding):
        for answer in row:
            whole = [*itertools.chain(*((*piece, -1) for piece in answer.pieces))]
            assert all(contains(tuple(whole), word) for word in WORDS), answer
            assert answer.score > float("-inf")


@pytest.mark.parametrize("words", [((9, 8),), ((10,), (5,)), ((7, 7),)], ids=str)
def test_wide_beams_find_the_best_answers_with_the_words(words: tuple[tuple[int, ...], ...]) -> None:
    model, prompt = toy("gpt", 1), Prompt((1, 7, 8))
    every = exhaustive(model, prompt, 3, 4, 0)
    best = sorted((entry for entry in every if all(contains(entry[1], word) for word in words)), reverse=True)[:3]
    decoding = Decoding(
        max_new_tokens=3, stop_token_ids=(4,), num_beams=200, num_return_sequences=3, force_words_ids=words
    )
    found = generate(model, [prompt], decoding)[0]
    assert [answer.ids for answer in found] == [ids for _, ids in best]
    assert [answer.score for answer in found] == pytest.approx([score for score, _ in best], abs=1e-4)


def test_the_progress_of_words() -> None:
    forced = ForcedWords([[(1, 2, 1, 3)], [(5,)]], torch.device("cpu"))
    for ids, wanted in (
        ([0, 0, 0, 0], [0, 0]),
        ([0, 0, 1, 2], [2, 0]),
        ([1, 2, 1, 2], [2, 0]),  # the sequence begins anew inside of itself
        ([5, 1, 2, 1], [3, 1]),
        ([1, 2, 1, 3], [4, 0]),
        ([1, 3, 5, 1], [1, 1]),
    ):
        assert forced.progress(torch.tensor([[ids]]))[0, 0].tolist() == wanted
    assert forced.following(torch.tensor([[[5, 1, 2, 1]]]))[0, 0].tolist() == [3, 5]


def test_one_spelling_of_a_word_is_enough() -> None:
    forced = ForcedWords([[(5,)], ((1, 2), (3,))], torch.device("cpu"))
    assert forced.total == 3
    for ids, wanted in (([9], [0, 1]), ([9, 1], [0, 1]), ([1, 2], [0, 2]), ([3, 9], [0, 2]), ([5, 3], [1, 2])):
        assert forced.progress(torch.tensor([[ids]]))[0, 0].tolist() == wanted
    assert forced.following(torch.tensor([[[9, 1]]]))[0, 0].tolist() == [5, 2, 3]


@pytest.mark.parametrize("kind", ["gpt2", "glm", "t5"])
@pytest.mark.parametrize("options", [{}, {"suppress_tokens": (9, 3)}, {"suppress_tokens": range(1, 14)}], ids=str)
def test_the_best_scores_decide_as_all_scores_do(kind: str, options: dict[str, Any]) -> None:
    """A processor that changes nothing gets the scores of the whole vocabulary."""
    writing = writer(kind)
    decoding = writing.decoding(num_beams=4, num_return_sequences=4, **options)
    best = generate(writing.model, writing.prompts, decoding)
    every = generate(writing.model, writing.prompts, decoding, logits_processors=[lambda _, scores: scores])
    assert [[answer.ids for answer in row] for row in best] == [[answer.ids for answer in row] for row in every]
    for ours, theirs in zip(best, every, strict=True):
        same(ours, theirs)


def test_groups_without_a_penalty_are_the_same_search() -> None:
    """Each group finds what a search of its width finds."""
    writing = writer("gpt2")
    alone = generate(writing.model, writing.prompts, writing.decoding(num_beams=2, num_return_sequences=2))
    groups = generate(
        writing.model, writing.prompts, writing.decoding(num_beams=6, num_beam_groups=3, num_return_sequences=6)
    )
    for ours, theirs in zip(groups, alone, strict=True):
        same(ours[::3], theirs)
        same(ours[1::3], theirs)


def test_groups_of_one_beam_begin_differently() -> None:
    model = lively("GPT2Model")
    decoding = Writer(model, ()).decoding(
        num_beams=4, num_beam_groups=4, diversity_penalty=100, num_return_sequences=4, stop_token_ids=()
    )
    answers = generate(model, [Prompt((3, 5))], decoding)[0]
    for place in range(7):
        assert len({answer.ids[place] for answer in answers}) == 4
