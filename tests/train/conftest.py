"""The folders of runs."""

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    from tests.train import data  # imports torch, which some tests of this folder do without

    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, "ner")
    return tmp_path


@pytest.fixture
def cut(home: Path) -> Path:
    """A run that was cut off behind its first evaluation."""
    from tests.train.runs import KilledError, train

    with pytest.raises(KilledError):
        train(home, stop=9)
    return home
