"""Triton's kernels: on a GPU if there is one, else in Triton's interpreter, which runs them operation by operation."""

import os
from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Before anybody imports triton: it reads this when a kernel is defined, its own ones included.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    if find_spec("triton") is None:
        pytest.skip("needs triton")
    return torch.device(DEVICE)
