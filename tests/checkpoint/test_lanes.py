"""The lane of a GPU on a machine without one: which buffers are pinned when, and that all are unpinned.

CUDA is played by a few lines; tests/gpu/test_stream.py has the real one.
"""

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint import lanes
from flagai.checkpoint import stream as streaming
from flagai.checkpoint.lanes import CudaLane
from flagai.checkpoint.pages import FileMap
from flagai.checkpoint.pieces import Chunk, Move, plan
from flagai.checkpoint.stream import StreamPlan, stream
from tests.checkpoint.test_stream import stacked

CPU = torch.device("cpu")


class Runtime:
    """Counts what is pinned, and refuses from the ``refused``-th request on."""

    def __init__(self) -> None:
        self.pinned: set[int] = set()
        self.requests = 0
        self.refused: int | None = None
        self._lock = threading.Lock()

    def cudaHostRegister(self, address: int, _size: int, _flags: int) -> int:  # noqa: N802 - CUDA's name
        with self._lock:
            self.requests += 1
            if self.refused is not None and self.requests > self.refused:
                return 2
            self.pinned.add(address)
            return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - CUDA's name
        with self._lock:
            self.pinned.remove(address)
        return 0


class Queue:
    """A stream or an event of a device that has always just finished."""

    def __init__(self, *_: object, **__: object) -> None:
        self.cuda_stream = 0

    def query(self) -> bool:
        return True

    def synchronize(self, *_: object) -> None:
        pass

    record = wait_stream = synchronize


@pytest.fixture(name="runtime")
def _runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()

    def check(code: int) -> None:
        if code:
            raise RuntimeError(f"CUDA error: {code}, out of memory")

    replaced: dict[str, Any] = {
        "cudart": lambda: runtime, "check_error": check, "current_stream": Queue, "Stream": Queue, "Event": Queue,
        "stream": nullcontext,
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(lanes, "_driver_copy", lambda: None)
    monkeypatch.setattr(streaming, "open_lane", CudaLane)
    monkeypatch.setattr(streaming, "cores", lambda: 64)
    return runtime


def test_a_buffer_is_pinned_when_its_turn_comes(runtime: Runtime) -> None:
    with CudaLane(CPU, 3, 1 << 16) as lane:
        seen = [len(runtime.pinned)]
        lane.prepare()
        seen.append(len(runtime.pinned))
        for _ in range(5):
            lane.next_buffer()
            seen.append(len(runtime.pinned))
    assert seen == [0, 1, 1, 2, 3, 3, 3]
    assert not runtime.pinned


def test_what_was_read_into_any_buffer_arrives(runtime: Runtime) -> None:
    wanted = torch.arange(5 * 1024, dtype=torch.uint8).view(5, 1024)
    target = torch.zeros_like(wanted)
    with CudaLane(CPU, 2, 1 << 16) as lane:
        lane.prepare()
        for row, into in zip(wanted, target, strict=True):
            lane.next_buffer()[:1024] = memoryview(row.numpy())
            lane.send(Chunk(Path("file"), 0, 1024, [(0, Move(row, into))]))
    assert torch.equal(target, wanted)
    assert runtime.requests == 2


def test_readers_with_nothing_to_do_get_all_ready(runtime: Runtime, tmp_path: Path) -> None:
    whole = stacked(tmp_path)
    target = torch.empty(whole.shape)
    with streaming.Stream(CPU, 1 << 30, StreamPlan(4, 2, 1 << 20)) as readers:
        until = time.monotonic() + 60
        while runtime.requests < 8:
            assert time.monotonic() < until
        readers.add([Move(whole, target)])
    assert torch.equal(target, whole)
    assert runtime.requests == 8
    assert not runtime.pinned


def test_a_reader_with_something_to_do_pins_one_first(runtime: Runtime, tmp_path: Path) -> None:
    whole = stacked(tmp_path, 30_000)
    seen: list[int] = []

    class Watched(CudaLane):
        def send(self, chunk: Chunk) -> None:
            seen.append(len(self._raw))
            super().send(chunk)

    moves = [Move(part, torch.empty(part.shape)) for part in whole.split(1000)]
    chunks, _ = plan(moves, 200_000, FileMap())
    work = streaming.Work(1)
    work.add(chunks)
    work.close()
    work.all_are_there.set()
    reader = streaming._Reader(0, work, Watched(CPU, 2, 200_000))
    reader.start()
    reader.join()
    assert work.failure is None
    assert seen[:2] == [1, 2]
    assert len(seen) > 2


@pytest.mark.parametrize("refused", [0, 1, 2, 5], ids="after {}".format)
def test_memory_that_cannot_be_pinned_stops_all(runtime: Runtime, refused: int, tmp_path: Path) -> None:
    """With four readers, the sixth request is for a second buffer."""
    whole = stacked(tmp_path, 30_000)
    runtime.refused = refused
    with pytest.raises(RuntimeError, match="out of memory"):
        stream([Move(whole, torch.empty(whole.shape))], CPU, StreamPlan(4, 2, 100_000))
    assert runtime.requests > refused
    assert not runtime.pinned
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flagai-read")]
