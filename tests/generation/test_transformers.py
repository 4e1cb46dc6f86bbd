"""The same weights write the same texts here and in transformers."""

import itertools
from typing import Any

import pytest
import torch
import transformers

from flagai.generation import Decoding, Hypothesis, Prompt, generate
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model
from tests.generation.writers import TEXTS
from tests.parity.test_transformers import GPT2, T5
from tests.tiny import randomised

STOPS = (3, 11, 19)
CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2LMHeadModel, GPT2Model, {**GPT2, "vocab_size": 23}),
    "t5": (transformers.T5ForConditionalGeneration, T5Model, {**T5, "vocab_size": 23, "num_decoder_layers": 2}),
}


def pair(family: str, seed: int, folder: Any) -> tuple[Any, Any]:
    theirs_class, ours_class, config = CLASSES[family]
    torch.manual_seed(seed)
    theirs = randomised(theirs_class(theirs_class.config_class(**config)).eval(), std=0.3)
    with torch.no_grad():
        theirs.get_input_embeddings().weight.mul_(2 if family == "gpt2" else 0.3)
    theirs.save_pretrained(folder)
    # In their generate, a padding id that was generated is a token like any other.
    changes = {"pad_token_id": None} if family == "gpt2" else {}
    return theirs, ours_class.from_pretrain(folder.parent, folder.name, **changes)


def their_answers(model: Any, count: int, **options: Any) -> tuple[list[list[tuple[int, ...]]], list[float]]:
    """Their answers to TEXTS, stop ids cut off, and their scores."""
    size = max(len(ids) for ids in TEXTS)
    left = [[*[0] * (size - len(ids)), *ids] for ids in TEXTS]
    mask = [[*[0] * (size - len(ids)), *[1] * len(ids)] for ids in TEXTS]
    output = model.generate(
        torch.tensor(left),
        attention_mask=torch.tensor(mask),
        max_new_tokens=8,
        eos_token_id=list(STOPS),
        pad_token_id=0,
        num_return_sequences=count,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    first = 1 if model.config.is_encoder_decoder else size
    rows = [tuple(row[first:]) for row in output.sequences.tolist()]
    rows = [tuple(itertools.takewhile(lambda token: token not in STOPS, row)) for row in rows]
    scores = output.sequences_scores.tolist() if "sequences_scores" in output else []
    return [rows[start : start + count] for start in range(0, len(rows), count)], scores


def our_answers(model: Any, **options: Any) -> list[list[Hypothesis]]:
    decoding = Decoding(max_new_tokens=8, stop_token_ids=STOPS, **options)
    return generate(model, [Prompt(ids) for ids in TEXTS], decoding)


RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "no-repeat": ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    "bad-words": ({"bad_words_ids": [[7], [9, 4], [1, 2, 3]]}, {"bad_words_ids": ((7,), (9, 4), (1, 2, 3))}),
    "min-length": ({"min_new_tokens": 5}, {"min_new_tokens": 5}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", CLASSES)
def test_greedy(family: str, rule: str, tmp_path: Any) -> None:
    theirs_options, ours_options = RULES[rule]
    for seed in range(4):
        theirs, ours = pair(family, seed, tmp_path / str(seed))
        wanted, _ = their_answers(theirs, 1, do_sample=False, **theirs_options)
        assert [[answer.ids for answer in row] for row in our_answers(ours, **ours_options)] == wanted


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [0, 1, 2, -1])
@pytest.mark.parametrize("family", CLASSES)
def test_beams(family: str, penalty: float, early: Any, tmp_path: Any) -> None:
    for seed in range(2):
        theirs, ours = pair(family, seed, tmp_path / str(seed))
        options = {"num_beams": 4, "length_penalty": float(penalty), "early_stopping": early}
        wanted, scores = their_answers(theirs, 3, **options)
        got = our_answers(ours, num_return_sequences=3, **options)
        assert [[answer.ids for answer in row] for row in got] == wanted
        assert [answer.score for row in got for answer in row] == pytest.approx(scores, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", CLASSES)
def test_beams_with_rules(family: str, rule: str, tmp_path: Any) -> None:
    theirs_options, ours_options = RULES[rule]
    for seed in range(2):
        theirs, ours = pair(family, seed, tmp_path / str(seed))
        wanted, _ = their_answers(theirs, 2, num_beams=3, length_penalty=0.0, early_stopping="never", **theirs_options)
        got = our_answers(ours, num_beams=3, num_return_sequences=2, **ours_options)
        assert [[answer.ids for answer in row] for row in got] == wanted
