"""What ranks hand each other while they load, so that a machine reads each byte of the files once.

Matrices that are cut between the numbers of a row of the file: a rank that holds some columns would read a piece of
each row, small pieces, or all bytes as often as there are ranks. Instead, each of n ranks reads an n-th of the rows in
long pieces, into the memory in which its columns will be, as large; then they swap. Replicas: each reads an n-th of the
matrix, and they gather. Between devices either is ten times as fast as the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from flagai.checkpoint.stream.plan import Move
from flagai.errors import CheckpointError
from flagai.parallel.dtensor import ShardGroup

# Replicas read smaller tensors each by itself: that costs less than to gather.
_WORTH = 1 << 20


@dataclass(frozen=True)
class Swap:
    """One matrix of a group of ranks.

    Args:
        source: the rows of the file that belong to the group; the nearer dimension is the one that is cut.
        target: the memory of this rank's columns.
        cut: who shares the matrix.
    """

    source: torch.Tensor
    target: torch.Tensor
    cut: ShardGroup

    @property
    def ranks(self) -> ProcessGroup:
        """Who swaps."""
        return self.cut.ranks

    @property
    def rows(self) -> torch.Tensor:
        """The memory of the target as the rows that this rank reads, [rows of the file / n, columns of the file]."""
        return self.target.view(-1).view(self.source.shape[1 - self.cut.dimension] // self.cut.count, -1)

    def read(self) -> Move:
        """What this rank reads."""
        outer = 1 - self.cut.dimension
        each = self.source.shape[outer] // self.cut.count
        mine = self.source.narrow(outer, self.cut.index * each, each)
        return Move(mine, self.rows if outer == 0 else self.rows.T)

    def run(self) -> None:
        """Swap; all ranks of the group do it at once, for the same matrices in the same order."""
        read, count = self.rows, self.cut.count
        parts = read.view(len(read), count, -1).transpose(0, 1).contiguous()  # [for whom, rows, columns]
        in_order = self.cut.dimension == 1
        got = self.target.view_as(parts) if in_order else torch.empty_like(parts)
        distributed.all_to_all_single(got.view(torch.uint8), parts.view(torch.uint8), group=self.cut.ranks)
        if not in_order:
            self.target.copy_(got.flatten(0, 1).T)


def shared_rows(source: torch.Tensor, window: Sequence[slice], cut: ShardGroup) -> torch.Tensor | None:
    """The rows of the file that a group's parts of a matrix lie in; None where there is nothing to swap.

    That is where the window is a piece of the file anyway, or where the rows cannot be shared out evenly. The answer
    depends on shapes only, so all ranks of a group have the same.

    Args:
        source: the whole matrix, as a view of the file.
        window: which part of the whole this rank's is.
        cut: the group along one of the dimensions.
    """
    if source.dim() != 2 or source.stride(cut.dimension) >= source.stride(1 - cut.dimension):
        return None
    outer = window[1 - cut.dimension]
    rows = source.narrow(1 - cut.dimension, outer.start, outer.stop - outer.start)
    return None if any(extent % cut.count for extent in rows.shape) else rows


@dataclass(frozen=True)
class Gather:
    """Memory that replicas fill together.

    Args:
        memory: contiguous; first the piece of the first rank.
        ranks: the replicas.
    """

    memory: torch.Tensor
    ranks: ProcessGroup

    def run(self) -> None:
        """Gather; all replicas do it at once, for the same memory in the same order."""
        whole = self.memory.view(-1).view(torch.uint8)
        mine = whole.chunk(distributed.get_world_size(self.ranks))[distributed.get_rank(self.ranks)]
        distributed.all_gather_into_tensor(whole, mine, group=self.ranks)


def gather_of(move: Move, ranks: ProcessGroup) -> tuple[Move, Gather] | None:
    """A replica's share of a copy, and how it gets the others'; None where that cannot be shared or is too little.

    Args:
        move: what all replicas would read.
        ranks: the replicas.
    """
    whole, count = move.aligned(), distributed.get_world_size(ranks)
    if whole.target.nbytes < _WORTH or not whole.target.is_contiguous() or len(whole.source) % count:
        return None
    each = len(whole.source) // count
    begin = distributed.get_rank(ranks) * each
    mine = Move(whole.source[begin : begin + each], whole.target[begin : begin + each])
    return mine, Gather(whole.target, ranks)


def agree(groups: Sequence[ProcessGroup], device: torch.device, failure: BaseException | None) -> None:
    """Go on only if all ranks have read their parts: who waited for one that has given up would wait for ever.

    Args:
        groups: those who will exchange.
        device: where they do.
        failure: what this rank met.

    Raises:
        CheckpointError: another rank failed.
    """
    for group in groups:
        failed = torch.tensor(int(failure is not None), device=device)
        distributed.all_reduce(failed, op=distributed.ReduceOp.MAX, group=group)
        if failure is None and failed.item():
            failure = CheckpointError("Another process could not read its part of the weights; see its message.")
    if failure is not None:
        raise failure
