"""Texts that must not occur, and texts that must, in whatever tokens they are written."""

import random
from functools import cache

import pytest
import torch

from flagai.data.tokenizer import Tokenizer
from flagai.model.predictor.forbidden import ForbiddenTexts
from flagai.model.predictor.options import spellings
from tests import vocabularies

WORDS = {
    "GPT2-base-en": ["hidden", "outsiders", "New York", " York", "café", "\n"],
    "T5-base-en": ["house", "unbelievable", "New York"],
    "GLM-large-ch": ["北京", "今天天气", "computer"],
    "RoBERTa-base-ch": ["北京", "Unbelievable", "it's"],
    "BERT-base-en": ["unbelievable", "new york", "isn't"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return vocabularies.put(tmp_path_factory.mktemp("models"), *WORDS)


@pytest.fixture(scope="module")
def load(home):
    return cache(lambda name: Tokenizer.from_folder(home / name))


@pytest.fixture(scope="module")
def ids_by_piece(load):
    return cache(
        lambda name: {piece: number for number, piece in reversed(list(enumerate(load(name).token_bytes))) if piece}
    )


def segmentations(pattern: bytes, by_piece: dict[bytes, int], chance: random.Random) -> list[int]:
    """One way to write a text, at random; empty if it leads nowhere."""
    row, at = [], 0
    while at < len(pattern):
        ends = [end for end in range(at + 1, len(pattern) + 1) if pattern[at:end] in by_piece]
        if not ends:
            return []
        end = chance.choice(ends)
        row.append(by_piece[pattern[at:end]])
        at = end
    return row


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in WORDS.items() for word in words])
def test_every_spelling_is_forbidden_at_its_last_token(load, ids_by_piece, name, word) -> None:
    tokenizer = load(name)
    pattern, rows = tokenizer.pattern(word), tokenizer.vocab_size
    forbid = ForbiddenTexts([word], tokenizer, rows)
    chance = random.Random(1)
    found = {tuple(segmentations(b" " * blank + pattern, ids_by_piece(name), chance)) for blank in (0, 1) * 40} - {()}
    found |= set(spellings(word, tokenizer))
    assert found
    for row in found:
        history = torch.tensor([[[-1, *tokenizer.encode("is"), *row[:-1]]]])
        scores = forbid(history, torch.zeros(1, 1, rows))[0, 0]
        assert scores[row[-1]] == -torch.inf, tokenizer.convert_ids_to_tokens(row)
        assert (scores == 0).any()


@pytest.mark.parametrize("name", WORDS)
def test_only_tokens_that_complete_a_word_are_forbidden(load, name) -> None:
    tokenizer = load(name)
    word = WORDS[name][0]
    pattern, rows = tokenizer.pattern(word), tokenizer.vocab_size
    history = [*tokenizer.encode("is"), *tokenizer.encode(word)[:-1]]
    scores = ForbiddenTexts([word], tokenizer, rows)(torch.tensor([[history]]), torch.zeros(1, 1, rows))[0, 0]
    for number in scores.isinf().nonzero().flatten().tolist():
        assert pattern in tokenizer.bytes_of([*history, number])


def test_a_text_does_not_go_on_across_the_end_of_a_prompt(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    forbid = ForbiddenTexts(["北京"], tokenizer, tokenizer.vocab_size)
    north, capital = tokenizer.encode("北京")
    for between, expected in (([], -torch.inf), ([tokenizer.get_command_id("sep")], 0)):
        scores = forbid(torch.tensor([[[north, *between]]]), torch.zeros(1, 1, tokenizer.vocab_size))
        assert scores[0, 0, capital] == expected


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [("GPT2-base-en", "described", ["described", " described"]), ("T5-base-en", "house", ["house", "house"])],
)
def test_a_word_is_forced_with_and_without_a_blank(load, name, word, expected) -> None:
    tokenizer = load(name)
    rows = spellings(word, tokenizer)
    assert [tokenizer.decode(row) for row in rows] == expected
    assert len(set(rows)) == 2
