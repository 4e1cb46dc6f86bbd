"""Tests on several processes (pytest-xdist): how many there are, and what they send."""

import os
from typing import Any

import pytest

from tests.without_torch import HAS_TORCH

# Each takes about a gigabyte.
MOST = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each core; none for named files, whose imports would take longer, nor where tests share a GPU."""
    named = [argument for argument in config.args if ".py" in argument]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if named or cores == 1 or _shares_a_gpu() else min(cores, MOST)


def _shares_a_gpu() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Any:
    """Logs of a test may hold half a character, which workers cannot send."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_sendable(key): _sendable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_sendable, value))
    return value
