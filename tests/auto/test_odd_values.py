"""Whatever AutoLoader and SentenceEmbedder are given, they answer or raise an error of this library."""

import contextlib

import numpy as np
import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.errors import FlagAIError, InputError
from flagai.model.predictor.embedder import SentenceEmbedder
from tests import folders

ODD = [
    *(
        None,
        True,
        0,
        -1,
        2.5,
        float("nan"),
        10**30,
        b"b",
        "",
        "\ud800",
        "\x00",
        "今" * 999,
        [],
        [[]],
        [None],
        ["今", 5],
    ),
    *([1.5], [["今"]], {}, {"a": 1}, {"今"}, object(), range(3), np.int64(3), np.array(5), torch.tensor(3), len),
]
ARGUMENTS = "task_name model_name model_dir device torch_dtype class_num fp16 quantize segmenter lora_dir hidden_size"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "RoBERTa-base-ch", "BertModel")
    return home


@pytest.mark.parametrize("name", ARGUMENTS.split())
def test_arguments_of_the_loader_answer_or_are_named(home, name, monkeypatch):
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    monkeypatch.chdir(home)
    right = {"task_name": "classification", "model_name": "RoBERTa-base-ch", "model_dir": home, "device": "cpu"}
    AutoLoader(**right, class_num=2)
    for value in ODD:
        with contextlib.suppress(FlagAIError):
            AutoLoader(**right | {"class_num": 2} | {name: value})


@pytest.mark.parametrize("method", ["embed", "embed_ids", "match"])
def test_sentences_answer_or_are_named(home, method):
    embedder = SentenceEmbedder.from_folder(home / "RoBERTa-base-ch")
    first = [[1, 2]] if method == "embed_ids" else ["今"]
    getattr(embedder, method)(first, *([["天"]] if method == "match" else []))
    for value in ODD:
        with contextlib.suppress(FlagAIError):
            getattr(embedder, method)(value, *([["天"]] if method == "match" else []))


@pytest.mark.parametrize("value", [None, b"b", 5, "今" * 99], ids=repr)
def test_names_and_folders_are_texts(value):
    for name in ("model_name", "model_dir"):
        with pytest.raises(InputError, match=f"{name} is"):
            AutoLoader("ner", **{name: value if name == "model_name" or value is not None else 5})
