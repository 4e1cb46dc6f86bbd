"""Streaming: the same values as a plain load whatever the buffers, each byte read once, and no half of a model.

Everything but pinning and CUDA's streams is the same code on the CPU; tests/gpu/test_stream.py has the rest.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.stream import readers as streaming
from flagai.checkpoint.stream import transfer
from flagai.checkpoint.stream.plan import PAGE, Copy, plan_reads
from flagai.checkpoint.stream.readers import ReaderOptions, ReaderPool
from flagai.checkpoint.stream.staging import StagingBuffer
from flagai.checkpoint.stream.work_queue import WorkQueue
from flagai.errors import CheckpointError, FlagAIError
from tests import tiny
from tests.checkpoint.making import equal, saved
from tests.checkpoint.streaming import stream

CPU = torch.device("cpu")


def small(read_bytes: int = 512, readers: int = 3) -> ReaderOptions:
    return ReaderOptions(readers, read_bytes)


@pytest.fixture
def _streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Casts on the CPU go through the stream, as copies to another device do."""
    monkeypatch.setattr(transfer, "cast", lambda copies: stream(copies, CPU, small()))


def stacked(folder: Path, rows: int = 300, columns: int = 90) -> torch.Tensor:
    """A mapped tensor."""
    save_file({"a": torch.randn(3), "w": torch.randn(rows, columns)}, folder / "model.safetensors")
    return open_checkpoint(folder).tensors("w")[0]


@pytest.mark.usefixtures("_streamed")
@pytest.mark.parametrize(("name", "changes"), tiny.EVERY, ids=tiny.label)
@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_every_model_equals_the_plain_load(name: str, changes: dict[str, Any], layout: str, tmp_path: Path) -> None:
    model = tiny.build(name, **changes)
    model.save_pretrained(tmp_path, layout=layout, max_shard_size="20KB")
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert equal(loaded, model.double())


@pytest.mark.usefixtures("_streamed")
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_streamed_or_copied(zipped: bool, tmp_path: Path) -> None:
    model = saved(tmp_path / "whole", "GPT2Model")
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    model.config.to_json(tmp_path / "config.json")
    source = open_checkpoint(tmp_path)
    reads, others = plan_reads([Copy(source.tensors(name)[0], weights[name]) for name in source], 1 << 20)
    assert bool(reads) is zipped
    assert bool(others) is not zipped
    assert equal(type(model).from_pretrained(tmp_path, dtype=torch.float64), model.double())


@pytest.mark.parametrize("read_bytes", [64, 700, 5000, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("readers", [1, 4])
def test_windows_of_any_shape(read_bytes: int, dtype: torch.dtype, readers: int, tmp_path: Path) -> None:
    whole = stacked(tmp_path)
    views = [whole, whole[100:200], whole[:, 30:60], whole.T[60:], whole[::3, 1], whole[7, 5], whole[:0]]
    targets = [torch.full(view.shape, torch.nan, dtype=dtype) for view in views]
    copies = [Copy(*pair) for pair in zip(views, targets, strict=True) if pair[0].numel()]
    stream(copies, CPU, small(read_bytes, readers))
    for view, target in zip(views, targets, strict=True):
        assert torch.equal(target, view.to(dtype))


def test_readers_begin_before_all_is_planned(tmp_path: Path) -> None:
    whole = stacked(tmp_path, 4000)
    targets = [torch.full(part.shape, torch.nan) for part in whole.split(1000)]
    with ReaderPool(CPU, whole.nbytes, small()) as readers:
        for part, target in zip(whole.split(1000), targets, strict=True):
            readers.add([Copy(part, target)])
            while target.isnan().any():  # nobody has to leave for that
                pass
    assert torch.equal(torch.cat(targets), whole)
    readers = ReaderPool(CPU, whole.nbytes, small())
    readers.add([Copy(whole, torch.empty(whole.shape))])
    readers.__exit__(KeyError)  # they stop
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flagai-read")]


def test_readers_are_there_while_the_model_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device meta takes all and keeps nothing; readers do not know."""
    model = saved(tmp_path, "GPT2Model")
    seen: list[int] = []
    original = type(model).on_meta.__func__  # type: ignore[attr-defined]

    def building(cls: Any, *given: Any) -> Any:
        seen.append(sum(thread.name.startswith("flagai-read") for thread in threading.enumerate()))
        return original(cls, *given)

    read: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(type(model), "on_meta", classmethod(building))

    def counted(*given: Any) -> int:
        count = preadv(*given)
        read.append(count)
        return count

    monkeypatch.setattr(streaming.os, "preadv", counted)
    type(model).from_pretrained(tmp_path, device="meta")
    assert seen[0] > 0
    assert sum(read) >= sum(parameter.nbytes for parameter in model.parameters())
    with pytest.raises(FlagAIError):
        type(model).from_pretrained(tmp_path, device="meta", n_layer=7)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flagai-read")]


def test_a_machine_without_threads_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there already do not wait for ever."""
    start, started = threading.Thread.start, []

    def few(self: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(streaming, "available_cores", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(RuntimeError, match="new thread"):
        ReaderPool(CPU, 1 << 30)
    for reader in started:
        reader.join(60)
        assert not reader.is_alive()


def test_parts_of_one_matrix_are_read_once(tmp_path: Path) -> None:
    whole, limit = stacked(tmp_path, 3000), 50_000 + PAGE
    copies = [Copy(part, torch.empty(part.shape)) for part in whole.T.split(30)]
    reads, others = plan_reads(copies, limit)
    assert not others
    assert len(reads) > 10
    assert sum(read.size for read in reads) < whole.nbytes + len(reads) * PAGE
    assert all(read.size <= limit and read.begin % PAGE == 0 for read in reads)
    assert all(len(read.copies) == 3 for read in reads)


def test_small_tensors_share_a_read(tmp_path: Path) -> None:
    save_file({f"t{index}": torch.randn(50) for index in range(100)}, tmp_path / "model.safetensors")
    source = open_checkpoint(tmp_path)
    reads, _ = plan_reads([Copy(source.tensors(name)[0], torch.empty(50)) for name in source], 1 << 20)
    assert len(reads) == 1


def test_readers_take_their_share_and_help_the_last() -> None:
    reads: Sequence[Any] = range(10)
    work = WorkQueue(3)
    work.add(reads)
    work.close()
    assert [work.take(0) for _ in range(3)] == [0, 1, 2]  # its own, in order
    assert work.take(0) == 9  # then the end of the fullest
    assert sorted(filter(None, (work.take(1) for _ in range(8)))) == [3, 4, 5, 6, 7, 8]
    assert work.take(2) is None


def test_a_helper_comes_too_late_for_a_reader_that_does_not_wait() -> None:
    class Snatched(deque[Any]):
        def pop(self) -> Any:  # type: ignore[override]
            self.clear()  # its reader has just taken what was there
            return super().pop()

    work = WorkQueue(3)
    work.add(cast("Sequence[Any]", range(3)))
    work.shares[1] = Snatched([1, 1])
    assert work.take(0) == 0
    assert work.take(0) == 2
    work.close()
    assert work.take(0) is None


def test_the_ring_is_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int, int]] = []
    original = streaming.staging_buffer

    def counted(device: torch.device, limit: int, buffers: int, size: int) -> Any:
        made.append((limit, buffers, size))
        return original(device, limit, buffers, size)

    monkeypatch.setattr(streaming, "staging_buffer", counted)
    monkeypatch.setattr(streaming, "available_cores", lambda: 64)
    for rows in (400, 4000):
        made.clear()
        folder = tmp_path / str(rows)
        folder.mkdir()
        whole = stacked(folder, rows)
        stream([Copy(whole, torch.empty(whole.shape))], CPU, small(1000, 4))
        assert made == 4 * [(1000 + PAGE, 2, (6 << 20) + PAGE)]


def expect_nothing_loaded(folder: Path, *words: str) -> None:
    """Loading fails with one clear error, no reader is left, and the model is as it was."""
    model = tiny.CLASSES["GPT2Model"].on_meta(tiny.build("GPT2Model").config)
    with pytest.raises(CheckpointError) as caught:
        model.load_checkpoint(open_checkpoint(folder), dtype=torch.float64)
    assert all(word in str(caught.value) for word in words)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flagai-read")]


@pytest.mark.usefixtures("_streamed")
def test_a_file_that_is_cut_meanwhile_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "GPT2Model")
    original, size = os.preadv, (tmp_path / "model.safetensors").stat().st_size

    def cut(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        return original(descriptor, buffers, offset) if offset < size // 2 else 0

    monkeypatch.setattr(streaming.os, "preadv", cut)
    expect_nothing_loaded(tmp_path, "model.safetensors", "ended at byte", "Download it again")


@pytest.mark.usefixtures("_streamed")
def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, original = saved(tmp_path, "GPT2Model"), os.preadv
    monkeypatch.setattr(streaming.os, "preadv", lambda file, into, at: original(file, [into[0][:100]], at))
    assert equal(type(model).from_pretrained(tmp_path, dtype=torch.float64), model.double())


@pytest.mark.usefixtures("_streamed")
def test_a_disk_that_fails_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "GPT2Model")

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(streaming.os, "preadv", fail)
    expect_nothing_loaded(tmp_path, "Input/output error", "model.safetensors")


@pytest.mark.usefixtures("_streamed")
def test_a_device_that_fails_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path, "GPT2Model")

    class Broken(StagingBuffer):
        def read(self, *_: Any) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(streaming, "staging_buffer", lambda device, limit, *_: Broken(device, limit))
    empty = type(model).on_meta(model.config)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        empty.load_checkpoint(open_checkpoint(tmp_path), dtype=torch.float64)
    assert all(parameter.is_meta for parameter in empty.parameters())


@pytest.mark.usefixtures("_streamed")
def test_inside_of_inference_mode(tmp_path: Path) -> None:
    model = saved(tmp_path, "GPT2Model")
    with torch.inference_mode():
        loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert equal(loaded, model.double())


@pytest.mark.parametrize("name", ["GLMModel", "GPT2Model"])
def test_reading_begins_soon(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first batch goes off, the rest together; whatever the order in which files are mapped."""
    model = tiny.build(name)
    model.save_pretrained(tmp_path, layout="huggingface", max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    added: list[list[Copy]] = []
    original = ReaderPool.add

    def add(self: ReaderPool, copies: Sequence[Copy]) -> None:
        added.append(list(copies))
        original(self, copies)

    monkeypatch.setattr(ReaderPool, "add", add)
    monkeypatch.setattr(transfer, "FIRST_BATCH", 2000)
    type(model).from_pretrained(tmp_path, device="meta")
    sizes = [sum(copy.source.nbytes for copy in copies) for copies in added]
    largest = max(parameter.nbytes for parameter in model.parameters())
    assert len(sizes) == 2
    assert 2000 <= sizes[0] < 2000 + 3 * largest
