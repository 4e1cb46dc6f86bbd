"""What the kernel is asked for: pages that are there before they are used, huge ones, and where a tensor lies."""

import gc
import mmap
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.mapped_files import FileMap
from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.stream.cast import cast
from flagai.checkpoint.stream.memory import empty_like, mapped_ahead
from flagai.checkpoint.stream.plan import Copy
from flagai.errors import CheckpointError
from flagai.model.meta_init import gc_paused
from tests.checkpoint.making import equal, saved

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
MEGABYTE = 1 << 20
POPULATE_READ = 22  # of <linux/mman.h>, since Linux 5.14


def written(folder: Path, megabytes: int = 8) -> torch.Tensor:
    save_file({"w": torch.randn(megabytes, MEGABYTE // 4)}, folder / "model.safetensors")
    return open_checkpoint(folder).tensors("w")[0]


def resident(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's mapping that this process has in its page tables."""
    found = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        begin, _, end = line.split(" ")[0].partition("-")
        if end:
            found = int(begin, 16) <= tensor.data_ptr() < int(end, 16)
        elif found and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    return 0


def skip_unless_pages_can_be_populated() -> None:
    try:
        mmap.mmap(-1, mmap.PAGESIZE).madvise(POPULATE_READ)
    except OSError:
        pytest.skip("this kernel cannot be asked")


@linux
def test_pages_are_mapped_ahead_and_shared(tmp_path: Path) -> None:
    tensor = written(tmp_path)
    assert resident(tensor) < MEGABYTE
    with mapped_ahead([tensor]):
        pass
    skip_unless_pages_can_be_populated()
    assert resident(tensor) >= tensor.nbytes


@linux
def test_a_file_that_was_cut_is_an_error_and_no_crash(tmp_path: Path) -> None:
    tensor = written(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(MEGABYTE)
    skip_unless_pages_can_be_populated()
    with pytest.raises(CheckpointError, match="cut short"), mapped_ahead([tensor]):
        pass


def test_a_failure_inside_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(KeyError), mapped_ahead([written(tmp_path)]):
        raise KeyError


@linux
def test_the_place_of_a_view(tmp_path: Path) -> None:
    tensor = written(tmp_path)
    place = FileMap().find(tensor[3:5, 7:])
    assert place is not None
    content = place[0].read_bytes()[place[1] :]
    assert torch.equal(torch.frombuffer(bytearray(content[:400]), dtype=torch.float32), tensor[3, 7:107])
    assert FileMap().find(torch.randn(9)) is None


@linux
def test_a_file_that_was_replaced_is_not_taken_for_the_mapped_one(tmp_path: Path) -> None:
    tensor = written(tmp_path)
    save_file({"w": torch.zeros(8, MEGABYTE // 4)}, tmp_path / "other")
    (tmp_path / "other").replace(tmp_path / "model.safetensors")
    assert FileMap().find(tensor) is None


@pytest.mark.parametrize("rows", [3, 3000])
def test_memory_keeps_the_order_of_dimensions(rows: int) -> None:
    source = torch.randn(rows, 700)
    for view in (source, source.T, source[:, :350].T):
        copy = empty_like(view, torch.float64)
        assert copy.shape == view.shape
        assert copy.stride() == torch.empty_like(view).stride()
        cast([Copy(view, copy)])
        assert torch.equal(copy, view.double())


def test_a_failing_cast_is_raised() -> None:
    with pytest.raises(RuntimeError):
        cast([Copy(torch.randn(3, 2), torch.empty(5, 7))])


def test_the_collector_runs_again_after_a_load(tmp_path: Path) -> None:
    model = saved(tmp_path)
    assert gc.isenabled()
    assert equal(type(model).from_pretrained(tmp_path), model)
    assert gc.isenabled()
    with pytest.raises(KeyError), gc_paused():
        raise KeyError(gc.isenabled())
    assert gc.isenabled()
