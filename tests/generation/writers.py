"""Tiny models that write: one for every way in which a family decodes."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt
from tests import tiny

TEXTS = ((3, 5, 7, 9, 3, 5), (4,), (8, 2, 6, 1, 5, 9, 11, 13), (12, 10, 3))
PLAIN = tuple(Prompt(ids) for ids in TEXTS)
BLANKS = tuple(Prompt(ids, places) for ids, places in zip(TEXTS, ((1,), (0, 0), (1, 3, 6), (2,)), strict=True))


@dataclass(frozen=True)
class Writer:
    """A model and what it may be asked to continue."""

    model: Any
    prompts: tuple[Prompt, ...]
    start_id: int | None = None

    def decoding(self, **options: Any) -> Decoding:
        return Decoding(**{"max_new_tokens": 7, "stop_token_ids": (2, 17), "start_id": self.start_id, **options})


def lively(name: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny model with large weights: it has opinions, and they depend on the whole text."""
    model = tiny.build(name, seed, **changes)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 and "feed_forward" not in key:
                parameter.mul_(4)
    return model


def writer(kind: str, seed: int = 0) -> Writer:
    glm = {"spell_length": None}
    if kind == "glm-blanks":
        return Writer(lively("GLMModel", seed, **glm), BLANKS, start_id=14)
    name = {
        "gpt2": "GPT2Model",
        "bert": "BertForSeq2seq",
        "glm": "GLMForSeq2Seq",
        "glm-one-position": "GLMModel",
        "t5": "T5Model",
    }[kind]
    changes = {"t5": {}, "gpt2": {}, "bert": {}}.get(kind, glm)
    changes = {**changes, "block_position_encoding": False} if kind == "glm-one-position" else changes
    return Writer(lively(name, seed, **changes), PLAIN)


KINDS = ("gpt2", "bert", "glm", "glm-one-position", "glm-blanks", "t5")
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "temperature": 1.5, "top_k": 9, "top_p": 0.9},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "long beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 1.5},
    "hasty beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2, "early_stopping": True},
    "diverse beams": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 2, "num_return_sequences": 4},
    "forced beams": {"num_beams": 4, "force_words_ids": ((9, 8), (6,)), "num_return_sequences": 2},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 4},
    "careful": {
        "repetition_penalty": 2,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
        "bad_words_ids": ((5,), (28, 7)),
    },
    "lookup": {"prompt_lookup_num_tokens": 5},
    "careful lookup": {
        "prompt_lookup_num_tokens": 3,
        "do_sample": True,
        "seed": 2,
        "repetition_penalty": 2,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 3,
        "bad_words_ids": ((5,), (28, 7)),
    },
    "careful beams": {"num_beams": 4, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "bad_words_ids": ((5,), (28, 7))},
}
# All searches of one family, and some of every family.
PAIRS = [
    (kind, search)
    for kind in KINDS
    for search in SEARCHES
    if kind == "glm-blanks" or search in ("greedy", "sampling", "beams")
]
# Every pair of the two; most are slow.
GRID = [
    pytest.param(kind, search, marks=() if (kind, search) in PAIRS else pytest.mark.slow)
    for kind in KINDS
    for search in SEARCHES
]
