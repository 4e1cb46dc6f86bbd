"""What is neither True nor False is refused by its name."""

from typing import Any

import pytest

from flagai.catalog.packages import find_model
from flagai.errors import InputError
from flagai.model.bert_model import BertModel
from flagai.model.predictor.embedder import SentenceEmbedder

MINILM = find_model("all-MiniLM-L6-v2")
ODD = ["x", "False", 0, 1, None, []]


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["mmap", "only_download_config"])
def test_loading_names_odd_flags(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is .*expected True or False"):
        BertModel.from_pretrained("/absent", **{name: value})


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_embedding_names_odd_flags(value: Any) -> None:
    embedder = SentenceEmbedder.from_folder(MINILM)
    with pytest.raises(InputError, match=r"normalize is .*expected True or False"):
        embedder.embed(["a"], normalize=value)
    with pytest.raises(InputError, match=r"strict is .*expected True or False"):
        SentenceEmbedder(embedder.model, embedder.tokenizer, strict=value)
    with pytest.raises(InputError, match=r"mmap is .*expected True or False"):
        embedder.model.load_weights(MINILM, mmap=value)
