"""Triton's kernels: on a GPU if there is one, else in Triton's interpreter, which runs them operation by operation.

The interpreter is chosen in ``tests/conftest.py``.
"""

from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    if find_spec("triton") is None:
        pytest.skip("needs triton")
    return torch.device(DEVICE)
