"""Model cards: a head that the Hugging Face hub's own reader understands."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from flagai.train.card import repository_of, write_card

FACTS = {"task": "ner", "base": "RoBERTa-base-ch", "data": "a: b.conll", "texts": 20, "held-out": 4}


def card(folder: Path, **facts: str) -> ModelCard:
    write_card(folder, FACTS | facts, {"epochs": 1}, {"f1": 0.5, "valid_loss": 1e-7}, folder / "mine")
    return ModelCard.load(folder / "README.md")


def test_the_head_says_what_the_hub_asks_for(tmp_path: Path) -> None:
    found = card(tmp_path, licence="apache-2.0")
    assert found.data.license == "apache-2.0"
    assert found.data.base_model == repository_of("RoBERTa-base-ch") is not None
    assert (found.data.pipeline_tag, found.data.library_name) == ("token-classification", "flagai")
    assert {result.metric_type: result.metric_value for result in found.data.eval_results or ()} == {
        "f1": 0.5,
        "valid_loss": 1e-7,
    }
    assert {result.dataset_name for result in found.data.eval_results or ()} == {"a: b.conll"}
    assert found.text.startswith("\n# mine\n")
    assert "apache-2.0, as stated by" in found.text


def test_a_licence_that_nobody_stated_is_unknown(tmp_path: Path) -> None:
    found = card(tmp_path)
    assert found.data.license == "unknown"
    assert "flagai push --licence" in found.text


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("hf:BAAI/bge@main", "BAAI/bge"),
        ("BAAI/bge", "BAAI/bge"),
        ("modelscope:BAAI/bge", None),
        ("no such model", None),
        ("/home/me/mine", None),
    ],
)
def test_base_models(name: str, repository: str | None) -> None:
    assert repository_of(name) == repository
