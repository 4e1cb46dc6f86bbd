"""Texts in windows: every window once, in order, read on another thread before it is needed."""

import threading
from collections.abc import Sequence

import pytest
import torch

from flagai.data.ragged import Ragged
from flagai.errors import InputError
from flagai.model.predictor import prefetch as windows
from flagai.model.predictor.prefetch import pipelined


def test_rows_are_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CPU_TEXTS", 3)
    texts = [[number] * (1 + number % 3) for number in range(10)]
    seen = []

    def run(rows: Ragged) -> torch.Tensor:
        seen.append(len(rows))
        return torch.from_numpy(rows.values[rows.starts])[:, None]

    found = pipelined(texts, Ragged.of, run, torch.device("cpu"))
    assert found[:, 0].tolist() == list(range(10))
    assert seen == [3, 3, 3, 1]


def test_windows_are_read_ahead_on_one_thread() -> None:
    read: list[int] = []

    def reading(part: Sequence[int]) -> Ragged:
        assert threading.current_thread() is not threading.main_thread()
        read.append(part[0])
        return Ragged.of([part])

    ahead = []
    for number, rows in enumerate(windows.read_ahead([[part] for part in range(6)], reading)):
        assert rows.values.tolist() == [number]
        ahead.append(len(read) - number)
    assert read == list(range(6))
    assert max(ahead) <= 4


def test_a_window_that_cannot_be_read_is_an_error() -> None:
    def reading(part: Sequence[int]) -> Ragged:
        if part[0] == 3:
            raise InputError("no text")
        return Ragged.of([part])

    with pytest.raises(InputError, match="no text"):
        list(windows.read_ahead([[part] for part in range(6)], reading))
