"""Whatever value a method of the Predictor is given, it answers or raises an error of this library."""

import contextlib

import numpy as np
import pytest

from flagai.errors import FlagAIError

ODD = [
    *(None, True, -1, 2.5, float("nan"), 10**400, b"b", "", "\ud800", [], [[]], [None], [""], ["今", 5], {}, object()),
    *(np.int64(3), np.array(["今"]), [["\ud800"]], ["\ud800"]),
]
OPTIONS = "temperature top_k top_p repetition_penalty seed seeds stop bad_words forced_words min_length length_penalty"
SHORT = {"text": "今", "out_max_length": 2}
CASES = [
    ("NER", "predict_ner", {"text": "今天", "target": ["O", "B-LOC", "I-LOC"]}, "text target maxlen"),
    ("classes", "predict_cls_classifier", {"text": "今天"}, "text maxlen labels"),
    ("classes", "class_probabilities", {"texts": ["今"]}, "texts maxlen labels"),
    ("GPT-2", "predict_embedding", {"text": "今"}, "text maxlen"),
    ("GPT-2", "write", SHORT, "text input_max_length out_max_length"),
    ("GPT-2", "predict_generate_randomsample", SHORT, OPTIONS),
]
MODELS = {
    "GPT-2": ("GPT2-base-ch", "GPT2Model", {}),
    "NER": ("RoBERTa-base-ch", "BertForSequenceLabeling", {"class_num": 3}),
    "classes": ("RoBERTa-base-ch", "BertForClsClassifier", {"class_num": 3}),
}


@pytest.mark.parametrize(("model", "method", "right", "names"), CASES)
def test_odd_values_answer_or_are_named(predictor, model, method, right, names):
    name, class_name, sizes = MODELS[model]
    run = predictor(name, class_name, **sizes)
    for option in names.split():
        for value in ODD:
            with contextlib.suppress(FlagAIError):
                getattr(run, method)(**right | {option: value})
