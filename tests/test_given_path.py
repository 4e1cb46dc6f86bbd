"""Odd paths and names end in this library's errors at every front door."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagai.data.tokenizer import Tokenizer
from flagai.errors import FlagAIError, InputError
from flagai.model.bert_model import BertModel
from flagai.model.predictor.embedder import SentenceEmbedder
from tests import tiny

ODD = [b"x", 5, 1.5, "\0", "a/\0b", "a" * 300, "\ud800", {}, {"a": 1}, object(), "~no such user/x"]
DOORS: dict[str, Callable[[Any], object]] = {
    "from_pretrain": BertModel.from_pretrain,
    "from_pretrain, model_name": lambda value: BertModel.from_pretrain("/absent", value or b"x"),
    "from_pretrained": BertModel.from_pretrained,
    "init_from_json": BertModel.init_from_json,
    "Tokenizer.from_folder": Tokenizer.from_folder,
    "Tokenizer.from_folder, name": lambda value: Tokenizer.from_folder("/absent", value),
    "Tokenizer.from_pretrained": Tokenizer.from_pretrained,
    "Tokenizer.from_pretrained, cache_dir": lambda value: Tokenizer.from_pretrained("GLM-large-ch", cache_dir=value),
    "SentenceEmbedder.from_folder": SentenceEmbedder.from_folder,
}
OF_MODELS = ("load_weights", "save_pretrained", "save_weights", "save_config")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
def test_odd_paths_are_named(door: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlagAIError):
        DOORS[door](value)


@pytest.mark.parametrize("name", tiny.CLASSES)
@pytest.mark.parametrize("value", [None, 5, "GLM-mini-ch", object()], ids=lambda value: type(value).__name__)
def test_models_name_what_is_no_configuration(name: str, value: Any) -> None:
    with pytest.raises(InputError, match="expected settings"):
        tiny.CLASSES[name](value)


@pytest.mark.parametrize("method", OF_MODELS)
@pytest.mark.parametrize("value", [None, *ODD], ids=lambda value: ascii(value)[:20])
def test_models_name_odd_paths(method: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlagAIError):
        getattr(tiny.build("BertModel"), method)(value)
    assert not list(tmp_path.iterdir())
