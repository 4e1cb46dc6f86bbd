"""Streaming into an accelerator: the same values as from the CPU, the memory given back, failures said once."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.stream import readers as streaming
from flagai.checkpoint.stream.plan import Copy
from flagai.checkpoint.stream.readers import ReaderOptions
from flagai.errors import CheckpointError
from tests.checkpoint.streaming import stream
from tests.tiny import EVERY, build, label

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
CUDA = torch.device("cuda")
MEGABYTE = 1 << 20


def written(folder: Path, megabytes: int = 300) -> torch.Tensor:
    """A mapped matrix of bfloat16; transposed and cut it is what GPT-2's files hold."""
    values = torch.randn(megabytes * MEGABYTE // 2 // 3072, 3072, device=CUDA).bfloat16().cpu()
    save_file({"bias": torch.randn(5), "w": values}, folder / "model.safetensors")
    return open_checkpoint(folder).tensors("w")[0]


@pytest.mark.parametrize(("name", "changes"), EVERY, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_every_model(name: str, changes: dict[str, Any], dtype: torch.dtype, layout: str, tmp_path: Path) -> None:
    model = build(name, **changes)
    model.save_pretrained(tmp_path, layout=layout)
    here = type(model).from_pretrained(tmp_path, dtype=dtype)
    there = type(model).from_pretrained(tmp_path, dtype=dtype, device="cuda")
    for (key, expected), (same, got) in zip(here.named_parameters(), there.named_parameters(), strict=True):
        assert key == same
        assert got.device.type == "cuda"
        assert got.dtype == expected.dtype
        assert torch.equal(got.cpu(), expected), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "how", [ReaderOptions(), ReaderOptions(2, MEGABYTE), ReaderOptions(5, 3 * MEGABYTE, 3, MEGABYTE - 4096)], ids=str
)
def test_windows(dtype: torch.dtype, how: ReaderOptions, tmp_path: Path) -> None:
    whole = written(tmp_path)
    views = [whole, whole[1000:7777], whole.T[1024:2048], whole[:, :1024], whole[9]]
    targets = [torch.full(view.shape, torch.nan, dtype=dtype, device=CUDA) for view in views]
    stream([Copy(*pair) for pair in zip(views, targets, strict=True)], CUDA, how)
    for view, target in zip(views, targets, strict=True):
        assert torch.equal(target.cpu(), view.to(dtype))


def test_work_that_is_queued_for_the_memory_comes_first(tmp_path: Path) -> None:
    whole = written(tmp_path, 60)
    target = torch.empty(whole.shape, dtype=whole.dtype, device=CUDA)
    torch.cuda._sleep(200_000_000)
    target.fill_(7)  # still waiting when the stream begins
    stream([Copy(whole, target)], CUDA)
    assert torch.equal(target.cpu(), whole)


def test_memory_goes_back(tmp_path: Path) -> None:
    whole = written(tmp_path)
    target = torch.empty(whole.shape, dtype=torch.float32, device=CUDA)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        stream([Copy(whole, target)], CUDA)
        assert torch.cuda.memory_allocated() == before


def test_a_file_that_is_cut_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, original = written(tmp_path), os.preadv
    target = torch.empty(whole.shape, dtype=whole.dtype, device=CUDA)

    def cut(descriptor: int, buffers: Any, offset: int) -> int:
        return original(descriptor, buffers, offset) if offset < 150 * MEGABYTE else 0

    monkeypatch.setattr(streaming.os, "preadv", cut)
    with pytest.raises(CheckpointError, match="ended at byte"):
        stream([Copy(whole, target)], CUDA)
    monkeypatch.undo()
    stream([Copy(whole, target)], CUDA)  # the device is as good as before
    assert torch.equal(target.cpu(), whole)


def test_too_little_memory_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = build("GPT2Model")
    model.save_pretrained(tmp_path)
    empty = type(model).on_meta(model.config)
    torch.cuda.set_per_process_memory_fraction(1e-9)
    torch.cuda.empty_cache()
    try:
        with pytest.raises(CheckpointError, match=r"The memory of cuda.* does not hold GPT2Model"):
            empty.load_checkpoint(open_checkpoint(tmp_path), device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(parameter.is_meta for parameter in empty.parameters())
