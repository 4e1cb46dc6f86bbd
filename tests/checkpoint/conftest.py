"""The models of the tests of saving and of layouts."""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.checkpoint.layouts import GLM, State
from tests.checkpoint.making import saved, tensors


@pytest.fixture
def old(tmp_path: Path) -> Any:
    """A model that is saved in the folder ``model``."""
    return saved(tmp_path / "model", seed=1)


@pytest.fixture
def new() -> Any:
    """A model that takes its place."""
    return tiny.build("GLMModel", 2, spell_length=None, class_num=None)


@pytest.fixture
def glm(tmp_path: Path) -> tuple[Any, State, Path]:
    """A GLM, its tensors under the original's names, and a folder with its configuration only."""
    model = saved(tmp_path / "model", **GLM)
    state = tensors(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    return model, state, tmp_path / "model"
