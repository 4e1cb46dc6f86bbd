"""One server for all tests of a worker, with a GLM, a sentence embedder and tiny BERT heads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import folders
from tests.serve.processes import ServerProcess, serving

MODELS = ("GLM-mini-ch", "all-MiniLM-L6-v2", "RoBERTa-base-ch-ner", "BERT-classes", "BERT-masks")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    for task, name, changes in (
        ("ner", "BertForSequenceLabeling", {"class_num": 7}),
        ("classes", "BertForClsClassifier", {"class_num": 2}),
        ("masks", "BertForMaskLM", {}),
    ):
        folders.write(home, "RoBERTa-base-ch", name, **changes)
        (home / "RoBERTa-base-ch").rename(home / (f"RoBERTa-base-ch-{task}" if task == "ner" else f"BERT-{task}"))
    return home


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[ServerProcess]:
    options = ("--max-body", "64", "--max-texts", "64", "--idle-timeout", "2", "--max-new-tokens", "300")
    with serving(home, *MODELS, *options) as running:
        yield running
    assert not [entry for entry in running.log if entry["level"] == "error"]
