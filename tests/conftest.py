"""Settings for all tests."""

import pytest
import torch

# Tiny models spend their time handing work to threads; with one thread the suite is faster and repeatable.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the internet; those of the hub turn this off and talk to a server of their own."""
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
