"""The buffer of a GPU on a machine without one: what goes through which buffer when, and that all are unpinned.

CUDA is played by a few lines; tests/gpu/test_stream.py has the real one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint.stream import readers as streaming
from flagai.checkpoint.stream import staging
from flagai.checkpoint.stream.plan import Copy, Read
from flagai.checkpoint.stream.readers import ReaderOptions
from flagai.checkpoint.stream.staging import CudaStagingBuffer, StagingBuffer, staging_buffer
from tests.checkpoint.cuda import Calls, LateCalls, Queue, Runtime
from tests.checkpoint.streaming import stream
from tests.checkpoint.test_readers import stacked

CPU = torch.device("cpu")


@pytest.fixture(name="runtime")
def _runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()

    def check(code: int) -> None:
        if code:
            raise RuntimeError(f"CUDA error: {code}, out of memory")

    replaced: dict[str, Any] = {
        "cudart": lambda: runtime, "check_error": check, "current_stream": Queue, "Stream": Queue,
        "stream": nullcontext,
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(streaming, "available_cores", lambda: 64)
    return runtime


@pytest.fixture
def calls(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every stream has lanes of a GPU."""
    found = Calls()
    monkeypatch.setattr(streaming, "staging_buffer", lambda *given: CudaStagingBuffer(*given, found))
    return found


def test_a_chunk_goes_through_the_ring_piece_by_piece(runtime: Runtime, calls: Calls) -> None:
    """Each buffer waits for its own copies; targets that lie across a border are copied in two pieces."""
    source = torch.arange(200, dtype=torch.uint8)
    target = torch.zeros_like(source)
    pieces = [(0, 30), (30, 100), (130, 70)]
    copies = [(at, Copy(source[at : at + size], target[at : at + size])) for at, size in pieces]

    with CudaStagingBuffer(CPU, 4096, 2, 64, calls) as buffer:
        buffer.prepare()
        assert len(runtime.pinned) == 1
        buffer.read(Read(Path("file"), 0, 200, copies), bytes_of(source))
        assert [size for _, size in calls.copies] == [30, 34, 64, 2, 62, 8]
        buffer.read(Read(Path("file"), 0, 30, copies[:1]), bytes_of(source))
    assert torch.equal(target, source)
    assert calls.waits == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert not calls.events
    assert not runtime.pinned


@pytest.fixture
def late(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> LateCalls:
    """Streams are synchronised by doing what is left."""
    found = LateCalls()
    monkeypatch.setattr(Queue, "synchronize", found.finish)
    return found


def bytes_of(source: torch.Tensor) -> Callable[[int, memoryview], None]:
    def read(begin: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(source.numpy())[begin : begin + len(buffer)]

    return read


def bring(calls: Calls, read: Read, fill: Callable[[int, memoryview], None]) -> None:
    """What a reader does with one read."""
    with CudaStagingBuffer(CPU, 4096, 2, 64, calls) as buffer:
        buffer.prepare()
        buffer.read(read, fill)


def test_no_buffer_is_filled_before_it_has_been_copied(late: LateCalls) -> None:
    source = torch.arange(200, dtype=torch.uint8)
    target = torch.zeros_like(source)
    bring(late, Read(Path("file"), 0, 200, [(0, Copy(source, target))]), bytes_of(source))
    assert torch.equal(target, source)


def test_memory_is_unpinned_when_all_is_over(runtime: Runtime, late: LateCalls) -> None:
    """Also after a failure; and it is the failure that is told, whatever follows from it."""
    source = torch.arange(200, dtype=torch.uint8)
    target, left, unpin = torch.zeros_like(source), [], runtime.cudaHostUnregister

    def watched(address: int) -> int:
        left.append(len(late.queue))
        unpin(address)
        return 4  # the device has failed

    def read(begin: int, buffer: memoryview) -> None:
        if begin > 64:
            raise OSError("the disk fails")

    runtime.cudaHostUnregister = watched  # type: ignore[method-assign]
    with pytest.raises(OSError, match="the disk fails"):
        bring(late, Read(Path("file"), 0, 200, [(0, Copy(source, target))]), read)
    assert left == [0]
    assert not late.events


def test_a_failure_while_waiting_tells_of_the_first(late: LateCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: device lost")

    def read(*_: object) -> None:
        raise OSError("the disk fails")

    monkeypatch.setattr(Queue, "synchronize", fail)
    with pytest.raises(RuntimeError, match="device lost") as caught:
        bring(late, Read(Path("file"), 0, 8, [(0, Copy(torch.ones(2), torch.ones(2)))]), read)
    assert isinstance(caught.value.__context__, OSError)


def test_all_buffers_are_pinned_and_one_is_on_the_device(runtime: Runtime, calls: Calls) -> None:
    source = torch.randn(8, 2)
    copies = [(0, Copy(source, torch.empty(8, 2, dtype=torch.float64)))]
    with CudaStagingBuffer(CPU, 4096, 3, 64, calls) as buffer:
        buffer.prepare()
        assert runtime.sizes == [3 * 64]
        assert len(calls.events) == 3
        for _ in range(2):
            buffer.read(Read(Path("file"), 0, 64, copies), bytes_of(source.view(torch.uint8).flatten()))
    assert len(set(calls.targets)) == 1


def test_an_interrupt_while_readers_start_leaves_none(
    runtime: Runtime, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def interrupted(reader: threading.Thread) -> None:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append(reader)
        start(reader)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streaming.ReaderPool(CPU, 1 << 30)
    for reader in started:
        reader.join(60)
        assert not reader.is_alive()
    assert not runtime.pinned
    assert not calls.events


def test_what_is_cast_or_turned_is_staged_whole(runtime: Runtime, calls: Calls) -> None:
    source = torch.randn(6, 10)
    raw = source.view(torch.uint8).flatten()
    targets = [torch.empty(10, 6).T, torch.empty(6, 10, dtype=torch.float64), torch.empty(60)]
    copies = [(0, Copy(source, targets[0])), (0, Copy(source, targets[1])), (0, Copy(source.flatten(), targets[2]))]

    bring(calls, Read(Path("file"), 0, 240, copies), bytes_of(raw))
    assert [size for _, size in calls.copies] == [64, 64, 64, 48]
    assert torch.equal(targets[0], source)
    assert torch.equal(targets[1], source.double())
    assert torch.equal(targets[2], source.flatten())


@pytest.mark.parametrize("size", [4096, 10_000, 1 << 20])
@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_windows_arrive(buffers: int, size: int, calls: Calls, tmp_path: Path) -> None:
    whole = stacked(tmp_path, 3000)
    views = [whole, whole[100:777], whole.T[30:50], whole[:, :30], whole[9]]
    targets = [torch.full(view.shape, torch.nan) for view in views]
    plan = ReaderOptions(4, 30_000, buffers, size)
    stream([Copy(*pair) for pair in zip(views, targets, strict=True)], CPU, plan)
    for view, target in zip(views, targets, strict=True):
        assert torch.equal(target, view)
    assert not calls.events


def test_readers_with_nothing_to_do_get_ready(runtime: Runtime, calls: Calls, tmp_path: Path) -> None:
    whole = stacked(tmp_path)
    target = torch.empty(whole.shape)
    with streaming.ReaderPool(CPU, 1 << 30, ReaderOptions(4, 1 << 20, 2, 1 << 18)) as readers:
        until = time.monotonic() + 600
        while runtime.requests < 4:
            assert time.monotonic() < until
        readers.add([Copy(whole, target)])
    assert torch.equal(target, whole)
    assert not runtime.pinned


def test_a_copy_that_fails_stops_all(runtime: Runtime, calls: Calls, tmp_path: Path) -> None:
    calls.refuses = True
    whole = stacked(tmp_path)
    with pytest.raises(RuntimeError, match="code 700"):
        stream([Copy(whole, torch.empty(whole.shape))], CPU)
    assert not calls.events
    assert not runtime.pinned


def test_lanes_for_devices(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, cuda = Calls(), torch.device("cuda")
    monkeypatch.setattr(staging, "driver", lambda: calls)
    found = staging_buffer(cuda, 1 << 16, 2, 1 << 12)
    assert isinstance(found, CudaStagingBuffer)
    assert (found.device, found.limit) == (cuda, 1 << 16)
    with found:
        found.prepare()
        assert (runtime.sizes, len(calls.events)) == ([2 << 12], 2)
    assert type(staging_buffer(CPU, 1 << 16, 2, 1 << 12)) is StagingBuffer
    monkeypatch.setattr(staging, "driver", lambda: None)
    assert type(staging_buffer(cuda, 1 << 16, 2, 1 << 12)) is StagingBuffer


def test_other_devices_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device, times in (("mps", 2), ("cpu", 0)):
        waited.clear()
        buffer = StagingBuffer(torch.device(device), 1 << 12)
        buffer.wait_for_current_stream()
        buffer.wait()
        assert waited == [torch.device(device)] * times


@pytest.mark.parametrize("refused", [0, 1, 3], ids="after {}".format)
@pytest.mark.usefixtures("calls")
def test_memory_that_cannot_be_pinned_stops_all(runtime: Runtime, refused: int, tmp_path: Path) -> None:
    whole = stacked(tmp_path, 30_000)
    runtime.refused = refused
    with pytest.raises(RuntimeError, match="out of memory"):
        stream([Copy(whole, torch.empty(whole.shape))], CPU, ReaderOptions(4, 100_000))
    assert runtime.requests > refused
    assert not runtime.pinned
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flagai-read")]
