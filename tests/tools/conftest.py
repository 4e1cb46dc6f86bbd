"""A folder of tiny models, which commands find by name."""

from pathlib import Path

import pytest

from tests import folders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory."""
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "GLM-large-ch", "GLMForSeq2Seq")
    folders.write(home, "GPT2-base-ch", "GPT2Model")
    folders.write(home, "RoBERTa-base-ch", "BertForMaskLM", class_num=None)
    folders.write(home, "RoBERTa-base-ch", "BertForSequenceLabeling", folder="RoBERTa-base-ch-ner", class_num=7)
    matching = {"folder": "RoBERTa-base-ch-semantic-matching", "class_num": 2}
    folders.write(home, "RoBERTa-base-ch", "BertForClsClassifier", **matching)
    return home


@pytest.fixture
def models(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model directory, as FLAGAI_HOME says."""
    monkeypatch.setenv("FLAGAI_HOME", str(home))
    return home
