"""The real tokenizers, loaded once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from flagai.data.tokenizer import Tokenizer
from tests import vocabularies


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabularies.put(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def load(home: Path) -> Callable[..., Tokenizer]:
    return cache(lambda name, **options: Tokenizer.from_folder(home / name, **options))
