"""Collectives of a load, so that a machine reads each byte of the files once.

A matrix that is sharded along its columns: each rank would read a small piece of every row, or all bytes as often as
there are ranks. Instead, each of n ranks reads an n-th of the rows in long pieces, into the memory of its columns, as
large; an all-to-all exchange follows. Replicas: each reads an n-th of the matrix, and an all-gather follows.
Between devices either is ten times as fast as the reading. All ranks make the same exchanges in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from flagai.checkpoint.stream.plan import Copy
from flagai.errors import CheckpointError
from flagai.parallel.collectives import all_agree
from flagai.parallel.dtensor import ShardGroup

# Each replica reads smaller tensors itself: that costs less than a collective.
FEWEST_BYTES = 1 << 20


@dataclass(frozen=True)
class ColumnExchange:
    """One matrix of a group of ranks.

    Args:
        source: the rows of the file that belong to the group; its inner dimension is the sharded one.
        target: the memory of this rank's columns.
        group: the ranks that share the matrix.
    """

    source: torch.Tensor
    target: torch.Tensor
    group: ShardGroup

    @property
    def ranks(self) -> ProcessGroup:
        """The ranks that take part."""
        return self.group.ranks

    @property
    def rows(self) -> torch.Tensor:
        """The memory of the target as the rows that this rank reads, [rows of the file / n, columns of the file]."""
        return self.target.view(-1).view(self.source.shape[1 - self.group.dimension] // self.group.count, -1)

    def read(self) -> Copy:
        """What this rank reads."""
        outer = 1 - self.group.dimension
        each = self.source.shape[outer] // self.group.count
        mine = self.source.narrow(outer, self.group.index * each, each)
        return Copy(mine, self.rows if outer == 0 else self.rows.T)

    def run(self) -> None:
        """Exchange the rows that the ranks have read for their columns."""
        read, count = self.rows, self.group.count
        parts = read.view(len(read), count, -1).transpose(0, 1).contiguous()  # [for whom, rows, columns]
        in_order = self.group.dimension == 1
        got = self.target.view_as(parts) if in_order else torch.empty_like(parts)
        distributed.all_to_all_single(got.view(torch.uint8), parts.view(torch.uint8), group=self.group.ranks)
        if not in_order:
            self.target.copy_(got.flatten(0, 1).T)


def shared_rows(source: torch.Tensor, slices: Sequence[slice], group: ShardGroup) -> torch.Tensor | None:
    """The rows of a matrix in a file that hold a group's shards; None where no exchange is needed or possible.

    That is where the shard is contiguous in the file anyway, or where the rows cannot be shared out evenly. The answer
    depends on shapes only, so all ranks of a group have the same.
    """
    if source.dim() != 2 or source.stride(group.dimension) >= source.stride(1 - group.dimension):
        return None
    outer = slices[1 - group.dimension]
    rows = source.narrow(1 - group.dimension, outer.start, outer.stop - outer.start)
    return None if any(extent % group.count for extent in rows.shape) else rows


@dataclass(frozen=True)
class ReplicaGather:
    """Contiguous memory that replicas fill together; first comes the share of the first rank."""

    memory: torch.Tensor
    ranks: ProcessGroup

    def run(self) -> None:
        """Gather the shares."""
        whole = self.memory.view(-1).view(torch.uint8)
        mine = whole.chunk(distributed.get_world_size(self.ranks))[distributed.get_rank(self.ranks)]
        distributed.all_gather_into_tensor(whole, mine, group=self.ranks)


def share_between_replicas(copy: Copy, ranks: ProcessGroup) -> tuple[Copy, ReplicaGather] | None:
    """A replica's share of a copy, and the collective for the rest; None where it cannot be shared or is too small."""
    whole, count = copy.in_memory_order(), distributed.get_world_size(ranks)
    if whole.target.nbytes < FEWEST_BYTES or not whole.target.is_contiguous() or len(whole.source) % count:
        return None
    each = len(whole.source) // count
    begin = distributed.get_rank(ranks) * each
    mine = Copy(whole.source[begin : begin + each], whole.target[begin : begin + each])
    return mine, ReplicaGather(whole.target, ranks)


def run_together(
    exchanges: Sequence[ColumnExchange | ReplicaGather], device: torch.device, failure: BaseException | None
) -> None:
    """Exchange if all ranks have read their shares: a collective with a rank that has given up would never end.

    Raises:
        CheckpointError: another rank failed; this rank's own failure is raised as it is.
    """
    for group in {exchange.ranks: None for exchange in exchanges}:
        if not all_agree(failure is None, group, device) and failure is None:
            failure = CheckpointError("Another process could not read its part of the weights; see its message.")
    if failure is not None:
        raise failure
    for exchange in exchanges:
        exchange.run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
