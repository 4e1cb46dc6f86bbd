"""The models of the tests of saving."""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.checkpoint.making import saved


@pytest.fixture
def old(tmp_path: Path) -> Any:
    """A model that is saved in the folder ``model``."""
    return saved(tmp_path / "model", seed=1)


@pytest.fixture
def new() -> Any:
    """A model that takes its place."""
    return tiny.build("GLMModel", 2, spell_length=None, class_num=None)
