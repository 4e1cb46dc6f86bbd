"""Whatever value a method of the Predictor is given, it answers or raises an error of this library, soon."""

import contextlib
import inspect
import random

import numpy as np
import pytest
import torch

from flagai.errors import FlagAIError, InputError
from flagai.model.predictor.options import NAMES
from flagai.model.predictor.predictor import Predictor

ODD = [
    *(None, True, 0, 1, -1, 2.5, float("nan"), float("inf"), -1e300, 10**9, 10**30, -(10**30), 10**400, 2**63),
    *(b"b", "", "\ud800", "今" * 99, [], [[]], [None], [""], ["今", 5], [["\ud800"]], ["\ud800"], ("今",), ["今"] * 9),
    *({}, {"今"}, object(), range(3), type, [10**30], [-1], np.int64(3), np.array(["今"]), np.array(5)),
    *(torch.tensor(3), torch.tensor([1, 2]), [lambda *_: None], [lambda _, scores: scores[..., :1]]),
]
WRITER = {"text": "今[MASK]", "out_max_length": 2}
BEAMS, DRAWN = WRITER | {"beam_size": 2}, WRITER | {"seed": 1}
BLANKS = {"texts": "今[MASK]", "out_max_length": 2}
CLASSES = {"labels": ["a", "b", "c"]}
SCORED = [
    ("predict_cls_classifier", {"text": "今天"} | CLASSES),
    ("class_probabilities", {"texts": ["今天"]} | CLASSES),
]
EMBEDDED = ("predict_embedding", {"text": "今天"})
WRITING = [
    *(("write", WRITER), ("stream", WRITER), ("predict_generate_beamsearch", BEAMS)),
    *(
        ("predict_generate_beamsearch", BEAMS | {"beam_size": 4, "num_return_sequences": 2}),
        ("predict_generate_randomsample", DRAWN),
    ),
    *(("predict_generate_contrastive_search", BEAMS), *SCORED, EMBEDDED),
]
MODELS = {
    "GPT-2": ("GPT2-base-ch", "GPT2Model", {}, WRITING),
    "GLM": ("GLM-large-ch", "GLMModel", {}, [*WRITING, ("fill_blanks", BLANKS)]),
    "GLM title": ("GLM-large-ch", "GLMForSeq2Seq", {}, WRITING),
    "T5": ("T5-base-en", "T5Model", {}, [*WRITING, ("fill_blanks", BLANKS)]),
    "UniLM": ("RoBERTa-base-ch", "BertForSeq2seq", {}, WRITING),
    "words": (
        *("RoBERTa-base-ch", "BertForMaskLM", {}),
        [("fill_blanks", BLANKS), ("predict_masklm", {"text": "今[MASK]"})],
    ),
    "NER": (
        *("RoBERTa-base-ch", "BertForSequenceLabeling", {"class_num": 3}),
        [("predict_ner", {"text": "今天", "target": ["O", "B-LOC", "I-LOC"]})],
    ),
    "GlobalPointer": (
        *("RoBERTa-base-ch", "BertForSequenceLabelingGP", {"class_num": 3, "inner_dim": 4}),
        [("predict_ner", {"text": "今天", "target": ["LOC", "ORG", "PER"]})],
    ),
    "classes": ("RoBERTa-base-ch", "BertForClsClassifier", {"class_num": 3}, SCORED),
    "GLM classes": ("GLM-large-ch", "GLMForSequenceClassification", {"class_num": 3}, SCORED),
    "embedding": ("RoBERTa-base-ch", "BertForEmbedding", {}, [EMBEDDED]),
}
SAMPLED = 300
TOO_LARGE = [
    *(("out_max_length", size) for size in (10**9, 10**30, 10**400)),
    *((name, size) for name in ("num_beams", "num_return_sequences") for size in (10**6, 10**9, 10**30)),
    *(("length_penalty", size) for size in (10**6, 10**9, -(10**9), 1e300)),
    *(
        (name, 10**30)
        for name in ("prompt_lookup_num_tokens", "temperature", "repetition_penalty", "diversity_penalty")
    ),
]


def grid(model):
    """(method, right arguments, argument, odd value) of a model's methods."""
    *_, methods = MODELS[model]
    for method, right in methods:
        for name in names(method):
            yield from ((method, right, name, value) for value in ODD)


def names(method):
    parameters = inspect.signature(getattr(Predictor, method)).parameters.values()
    own = [entry.name for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)]
    more = NAMES if any(entry.kind == entry.VAR_KEYWORD for entry in parameters) else ()
    return dict.fromkeys([*own[1:], *more])


def ask(predictor, model, method, arguments):
    name, class_name, sizes, _ = MODELS[model]
    found = getattr(predictor(name, class_name, **sizes), method)(**arguments)
    return "".join(found) if method == "stream" else found


def check(predictor, model, cases):
    for method, right, name, value in cases:
        with contextlib.suppress(FlagAIError):
            ask(predictor, model, method, right | {name: value})


@pytest.mark.parametrize("model", MODELS)
def test_odd_values_answer_or_are_named(predictor, model):
    cases = list(grid(model))
    for method, right in MODELS[model][3]:
        ask(predictor, model, method, right)
    check(predictor, model, random.Random(model).sample(cases, min(SAMPLED, len(cases))))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_odd_value_answers_or_is_named(predictor, model):
    check(predictor, model, grid(model))


@pytest.mark.parametrize(("name", "value"), TOO_LARGE)
@pytest.mark.parametrize("model", ["GPT-2", "T5"])
def test_what_no_memory_holds_is_refused(predictor, model, name, value):
    for method in ("predict_generate_beamsearch", "predict_generate_randomsample", "stream"):
        with pytest.raises(InputError, match=name.removeprefix("out_")):
            ask(predictor, model, method, WRITER | {name: value})


def test_candidates_and_fillings_are_limited(predictor):
    with pytest.raises(InputError, match="top_k 1000000000 candidates; expected at most"):
        ask(predictor, "T5", "predict_generate_contrastive_search", WRITER | {"beam_size": 10**9})
    for name in ("num_return_sequences", "beam_size"):
        with pytest.raises(InputError, match=f"{name} is 1000000000"):
            ask(predictor, "words", "fill_blanks", BLANKS | {name: 10**9})


def test_memory_that_runs_out_is_named(predictor, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("flagai.generation.replay.steps.read_prompts", refuse)
    with pytest.raises(InputError, match="Out of memory for 1 texts with 2 answers"):
        ask(predictor, "T5", "write", WRITER | {"num_beams": 2})


def test_a_processor_that_returns_no_scores_is_named(predictor):
    for wrong, message in ((lambda *_: None, "returned NoneType"), (lambda _, s: s[..., :2], "torch.float32")):
        with pytest.raises(InputError, match=f"{message}.*expected scores"):
            ask(predictor, "GPT-2", "write", WRITER | {"logits_processors": [wrong]})
