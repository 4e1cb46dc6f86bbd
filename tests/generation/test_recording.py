"""Recordings of a GPU, whose calls are stood in for: what can be known about them without one."""

import threading
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flagai.generation.replay import cuda_graph as recording
from flagai.generation.replay.cuda_graph import CudaRecorder


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[CudaRecorder]:
    def nothing(*_: Any, **__: Any) -> None:
        pass

    graph = SimpleNamespace(capture_begin=nothing, capture_end=nothing, replay=nothing)
    stream = SimpleNamespace(wait_stream=nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", nothing)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(recording, "side_stream", lambda _: stream)
    return [CudaRecorder(torch.device("cpu")) for _ in range(2)]


@pytest.mark.parametrize("ways", [("record", "record"), ("record", "warm_up")], ids="-".join)
def test_nobody_works_on_the_stream_of_recordings_while_another_records(
    ways: tuple[str, str], recorders: list[CudaRecorder]
) -> None:
    """Those of other models neither: a GPU has one such stream."""
    meeting, met = threading.Barrier(2), []

    def work() -> None:
        with suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(0.3))

    threads = [
        threading.Thread(target=getattr(recorder, way), args=(work,))
        for recorder, way in zip(recorders, ways, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meeting.broken, "both have worked"
    assert not met
