"""Ranks that read for each other, as on devices: rows are swapped for columns, replicas gather, all fail together."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import Shard

from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.stream import exchange as exchange_module
from flagai.checkpoint.stream import plan, transfer
from flagai.checkpoint.stream.plan import Copy, plan_reads
from flagai.errors import CheckpointError
from flagai.model.glm_model import GLMModel
from flagai.parallel import dtensor, torch_private
from flagai.parallel.sharding import read_sharding
from flagai.parallel.world import make_mesh
from tests import tiny
from tests.checkpoint.making import saved
from tests.parallel.comparing import SHARED
from tests.parallel.ranks import on_ranks
from tests.parallel.test_loading import FAMILIES, GLM, holds

SAVED = [(name, layout) for name in FAMILIES for layout in ("flagai", "huggingface")]


class Reader:
    """Reads as a device's stream does: whole reads of files, from which tensors are cut; notes the reads."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self.wanted = 0

    def __call__(self, copies: list[Copy]) -> None:
        reads, others = plan_reads(copies, 1 << 20)
        assert not others
        for read in reads:
            begin = min(offset for offset, _ in read.copies)  # reads begin at whole pages
            self.reads.append((read.file.name, read.begin + begin, read.end))
            for _, copy in read.copies:
                copy.target.copy_(copy.source)
                self.wanted += copy.source.nbytes


def exchange(root: Path, dimensions: dict[str, int], fsdp: bool) -> dict[str, tuple[int, Any]]:
    """Load matrices as devices do: the bytes that this rank wants, and the reads that it reads, by checkpoint."""
    found = {}
    sharding = read_sharding(make_mesh(**dimensions), fsdp=fsdp, device=torch.device("cpu"))
    for name, written in SAVED:
        folder, kind = root / f"{name}-{written}", tiny.CLASSES[name]
        model = kind.on_meta(kind.config_class.from_json(folder / "config.json"), sharding=sharding)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "exchanges_on", lambda _: True)
            patch.setattr(transfer, "cast", reader := Reader())
            patch.setattr(exchange_module, "FEWEST_BYTES", 1)
            patch.setattr(plan, "GAP", 0)  # these files are smaller than the gaps that are read over
            model.load_checkpoint(open_checkpoint(folder))
        holds(model, kind.from_pretrain(folder))
        found[folder.name] = (reader.wanted, reader.reads)
    return found


@pytest.mark.parametrize(
    ("dimensions", "fsdp"),
    [({"tp": 2}, False), ({"tp": 4}, False), ({"dp": 2, "tp": 1}, True), ({"dp": 2, "tp": 2}, True)],
    ids=str,
)
def test_a_node_reads_each_byte_once_and_its_ranks_swap(tmp_path: Path, dimensions: dict[str, int], fsdp: bool) -> None:
    """Matrices that ranks cut into columns are read in rows: in long pieces, and no byte twice."""
    for name, layout in SAVED:
        model = tiny.build(name, **SHARED[tiny.CLASSES[name].config_class.family])
        model.save_pretrained(tmp_path / f"{name}-{layout}", layout=layout)
    ranks = on_ranks(dimensions.get("dp", 1) * dimensions["tp"], exchange, tmp_path, dimensions, fsdp)
    for folder in ranks[0]:
        reads = sorted(read for rank in ranks for read in rank[folder][1])
        # As many as their copies want: every piece is one piece of the file.
        assert sum(end - begin for _, begin, end in reads) == sum(rank[folder][0] for rank in ranks), folder
        for (file, _, end), (following, begin, _) in itertools.pairwise(reads):
            assert file != following or end <= begin, f"{folder}: byte {begin} is read twice"


@pytest.mark.parametrize("dimensions", [{"dp": 2}, {"dp": 2, "tp": 2}], ids=str)
def test_replicas_read_a_share_each_and_gather(tmp_path: Path, dimensions: dict[str, int]) -> None:
    for name, layout in SAVED:
        model = tiny.build(name, **SHARED[tiny.CLASSES[name].config_class.family])
        model.save_pretrained(tmp_path / f"{name}-{layout}", layout=layout)
    ranks = on_ranks(2 * dimensions.get("tp", 1), replicas, tmp_path, dimensions)
    for rank in ranks:
        for folder, (asked, held) in rank.items():
            assert asked < 0.6 * held, f"{folder}: {asked} bytes of {held}; vectors are read by all"


def replicas(root: Path, dimensions: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Bytes of the file that this rank asks for, and that it has in the end, by checkpoint."""
    found = {}
    mesh = make_mesh(**dimensions)
    for name, written in SAVED:
        folder, kind = root / f"{name}-{written}", tiny.CLASSES[name]
        sharding = read_sharding(mesh, fsdp=False, device=torch.device("cpu"))
        model = kind.on_meta(kind.config_class.from_json(folder / "config.json"), sharding=sharding)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "exchanges_on", lambda _: True)
            patch.setattr(exchange_module, "FEWEST_BYTES", 1)
            report = model.load_checkpoint(open_checkpoint(folder), dtype=torch.float64)  # a cast: no views
        holds(model, kind.from_pretrain(folder, dtype=torch.float64), cut="tp" in dimensions)
        held = sum(4 * dtensor.local(parameter).numel() for parameter in model.parameters())
        found[folder.name] = (report.bytes_asked, held)
    return found


def fail_on_one(folder: Path) -> str:
    mesh = make_mesh(tp=2)

    def broken(copies: list[Copy]) -> None:
        if mesh.get_local_rank() == 1:
            raise CheckpointError("the disk of rank 1 is broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "exchanges_on", lambda _: True)
        patch.setattr(transfer, "cast", broken)
        with pytest.raises(CheckpointError) as caught:
            GLMModel.from_pretrain(folder, mesh=mesh)
    return str(caught.value)


def test_nobody_waits_for_a_rank_that_could_not_read(tmp_path: Path) -> None:
    saved(tmp_path, **GLM)
    first, second = on_ranks(2, fail_on_one, tmp_path)
    assert "Another process could not read" in first
    assert "the disk of rank 1" in second


def group_of_the_second_beginning(folder: Path) -> tuple[bool, float]:
    """End the process group and begin anew: whether tensors of an equal mesh are cut over the new group."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    for number in range(2):
        if number:
            distributed.destroy_process_group()
            distributed.init_process_group("gloo", init_method=f"file://{folder}/again", rank=rank, world_size=count)
        mesh = make_mesh(tp=count)
        part = torch.ones(2, 4)
        tensor = torch_private.distributed_tensor(part, mesh, (Shard(0),), torch.Size([2 * count, 4]), (4, 1))
        (cut,) = dtensor.shard_groups(tensor)
    total = torch.ones(())
    distributed.all_reduce(total, group=cut.ranks)
    return cut.ranks is mesh.get_group(), float(total)


def test_ranks_that_begin_anew_swap_in_their_new_group(tmp_path: Path) -> None:
    assert on_ranks(2, group_of_the_second_beginning, tmp_path) == [(True, 2.0)] * 2
