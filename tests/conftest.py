"""Settings for all tests."""

import os
from pathlib import Path

import hypothesis
import pytest

from flagai.data.tokenizer import Tokenizer
from tests import vocabularies
from tests.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 - hooks
from tests.triton_interpreter import use_interpreter
from tests.without_torch import HAS_TORCH, pytest_collection_modifyitems, pytest_ignore_collect  # noqa: F401 - hooks
from tests.workers import pytest_report_to_serializable, pytest_xdist_auto_num_workers  # noqa: F401 - hooks

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
# A busy machine is not a failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
if HAS_TORCH:
    import torch

    # Tiny models spend their time handing work to threads; with one thread the suite is faster and repeatable.
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        use_interpreter()  # before anything imports Triton


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", type=Path, help="a folder with real weights, for tests/real")
    parser.addoption("--chatglm", type=Path, help="a folder with ChatGLM's vocabularies, for tests/real")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the internet; those of the hub turn this off and talk to a server of their own."""
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")


@pytest.fixture(scope="session")
def vocabularies_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that have nothing but their tokenizers."""
    return vocabularies.put(tmp_path_factory.mktemp("vocabularies"))


def _tokenizer(name: str) -> object:
    @pytest.fixture(scope="session")
    def load(vocabularies_home: Path) -> Tokenizer:
        return Tokenizer.from_folder(vocabularies_home / name)

    return load


glm_tokenizer = _tokenizer("GLM-large-ch")
english_glm_tokenizer = _tokenizer("GLM-large-en")
bert_tokenizer = _tokenizer("RoBERTa-base-ch")
gpt2_tokenizer = _tokenizer("GPT2-base-en")
pegasus_tokenizer = _tokenizer("T5-base-ch")
t5_tokenizer = _tokenizer("T5-base-en")
