"""Odd paths, flags and numbers end in this library's errors, which name them, at every front door."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagai.catalog.packages import find_model
from flagai.checks import check_integer, check_number
from flagai.data.tokenizer import Tokenizer
from flagai.errors import FlagAIError, InputError
from flagai.model.bert_model import BertModel
from flagai.model.predictor.embedder import SentenceEmbedder
from tests import tiny

MINILM = find_model("all-MiniLM-L6-v2")
ODD_FLAGS = ["x", "False", 0, 1, None, []]
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


@pytest.mark.parametrize("value", ODD_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["mmap", "only_download_config"])
def test_loading_names_odd_flags(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is .*expected True or False"):
        BertModel.from_pretrained("/absent", **{name: value})


@pytest.mark.parametrize("value", ODD_FLAGS, ids=repr)
def test_embedding_names_odd_flags(value: Any) -> None:
    embedder = SentenceEmbedder.from_folder(MINILM)
    with pytest.raises(InputError, match=r"normalize is .*expected True or False"):
        embedder.embed(["a"], normalize=value)
    with pytest.raises(InputError, match=r"strict is .*expected True or False"):
        SentenceEmbedder(embedder.model, embedder.tokenizer, strict=value)
    with pytest.raises(InputError, match=r"mmap is .*expected True or False"):
        embedder.model.load_weights(MINILM, mmap=value)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (True, {}, "n is True; expected a number."),
        ("1", {}, "n is '1'; expected a number."),
        (1.0, {"integer": True}, "n is 1.0; expected an integer."),
        (-1, {"integer": True}, "n is -1; expected an integer, at least 0."),
        (0, {"above": True}, "n is 0; expected a number, more than 0."),
        (2000, {"high": 1000}, "n is 2000; expected a number, at least 0 and at most 1,000."),
        (float("nan"), {}, "n is nan; expected a number, at least 0."),
    ],
)
def test_numbers_are_named_with_their_range(value: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_number("n", value, 0, **options)
    assert str(caught.value) == message


def test_right_numbers_pass() -> None:
    check_number("n", 0, 0, 1)
    check_number("n", 0.5, 0, 1, above=True)
    assert check_integer("n", 7, high=7) == 7
    with pytest.raises(InputError, match="at least 1 and at most 7"):
        check_integer("n", 0, high=7)
