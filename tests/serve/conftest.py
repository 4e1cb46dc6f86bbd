"""One server for all tests of a worker, with a GLM, a sentence embedder and tiny BERT heads."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagai.data.tokenizer import Tokenizer
from tests import folders, tiny, vocabularies
from tests.chat.conftest import ROLES, TEMPLATE
from tests.serve.processes import ServerProcess, serving

MODELS = ("GLM-mini-ch", "all-MiniLM-L6-v2", "RoBERTa-base-ch-ner", "BERT-classes", "BERT-masks", "tiny-chat")


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
    write_chat_model(home)
    return home


def write_chat_model(home: Path) -> None:
    """A tiny GPT-2 with a chat template."""
    folder = (vocabularies.put(home, "GPT2-base-en") / "GPT2-base-en").rename(home / "tiny-chat")
    settings = {"tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": ROLES, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = tiny.build("GPT2Model", vocab_size=Tokenizer.from_folder(folder).vocab_size)
    model.save_weights(folder / "pytorch_model.bin")
    model.save_config(folder)


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[ServerProcess]:
    options = ("--max-body", "64", "--max-texts", "64", "--idle-timeout", "2", "--max-new-tokens", "300")
    with serving(home, *MODELS, *options) as running:
        yield running
    assert not [entry for entry in running.log if entry["level"] == "error"]
