"""Bring the values of parameters to their device and type.

The same device and type: a view of the mapped file, nothing is copied. Another type on the CPU: cast from the mapping,
by all cores. Another device: streamed. All copies are scheduled first and made together.
"""

import math
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import torch

from flagai.checkpoint.matching import ParameterSource
from flagai.checkpoint.report import phase
from flagai.checkpoint.stream.cast import cast
from flagai.checkpoint.stream.memory import empty_like
from flagai.checkpoint.stream.plan import Copy
from flagai.checkpoint.stream.readers import ReaderPool, with_index
from flagai.parallel import dtensor

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

    from flagai.checkpoint.stream.exchange import ColumnExchange, ReplicaGather

# When so many bytes are scheduled, copies to a device begin; the rest is scheduled at once. Scheduling and reading at
# the same time, sixteen readers and this thread wait for the GIL in turns: two ranks took 0.80 s with batches of
# 1 GB and 0.66 s with this, one GPU each, in the same run; 0.84 s if nothing was read before all was scheduled.
FIRST_BATCH = 1 << 28


class TensorTransfer:
    """The copies of one load: scheduled by :meth:`read` and :meth:`copy`, made on leaving, if no exception is raised.

    Copies to other devices begin when there are enough of them; the rest follows when all is scheduled.

    Args:
        device: of new tensors.
        size: about how many bytes of new tensors there will be.
        replicas: ranks that will have the same tensors; on devices they read them together.
        readers: of the device, if they run already.
    """

    def __init__(
        self,
        device: torch.device,
        size: int = 0,
        replicas: "ProcessGroup | None" = None,
        readers: ReaderPool | None = None,
    ) -> None:
        self.bytes_asked = 0  # of the files
        self._device = device = with_index(device)
        self._replicas = replicas if exchanges_on(device) else None
        self._batches: dict[torch.device, _Batch] = {}
        self._pools: dict[torch.device, ReaderPool] = {} if readers is None else {device: readers}
        self._exchanges: list[ReplicaGather | ColumnExchange] = []
        self._stack = ExitStack()
        self._enough: float = FIRST_BATCH
        if device.type == "cuda" and size:
            with suppress(torch.OutOfMemoryError):  # then piece by piece may still succeed
                torch.empty(size, dtype=torch.uint8, device=device)  # the allocator keeps it and hands out pieces
            self._pool(device, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Make all scheduled copies; after an exception, do nothing more.

        Raises:
            CheckpointError: a file ended early or cannot be read; the tensors' values are undefined then.
        """
        if raised[0] is not None:
            self._stack.__exit__(*raised)
            return
        failure: Exception | None = None
        try:
            self._finish()
        except Exception as error:
            if not self._exchanges:
                raise
            failure = error  # raised when the other ranks are not left waiting
        if self._exchanges:
            from flagai.checkpoint.stream.exchange import run_together

            with phase("exchange"):
                run_together(self._exchanges, self._device, failure)

    def read(self, source: ParameterSource, dtype: torch.dtype, *, in_order: bool = False) -> torch.Tensor:
        """A tensor that has the values of a source on leaving; a view of the file where that is enough.

        Args:
            source: what to read.
            dtype: the type of the tensor.
            in_order: whether its rows must lie one after the other.
        """
        whole = source.dimension is None or len(source.parts) == 1
        part = source.parts[0]
        on_cpu = self._device.type == "cpu"
        if whole and on_cpu and part.dtype == dtype:
            self.bytes_asked += part.nbytes
            return part.contiguous() if in_order else part
        like = part if whole and not in_order else part.new_empty(source.shape, device="meta")
        target = empty_like(like, dtype) if on_cpu else torch.empty_like(like, dtype=dtype, device=self._device)
        for view, part_of_target in source.copies(target):
            self._read(Copy(view, part_of_target))
        return target

    def read_shard(self, source: ParameterSource, like: "DTensor") -> torch.Tensor:
        """A tensor that has this rank's shard of the values of a source on leaving; ``like`` says what the shard is."""
        slices = dtensor.local_slices(like) or ()
        exchange = self._exchange(source, like, slices) if exchanges_on(self._device) else None
        if exchange is None:
            # A view if the shard is contiguous in the file; columns of a matrix are copied out.
            return self.read(source.shard(slices), like.dtype, in_order=True)
        self._read(exchange.read())
        self._exchanges.append(exchange)
        return exchange.target

    def _read(self, copy: Copy) -> None:
        """Schedule a copy into new memory, or this rank's share of it."""
        if self._replicas is not None and copy.source.numel():
            from flagai.checkpoint.stream.exchange import share_between_replicas

            if shared := share_between_replicas(copy, self._replicas):
                copy, gather = shared
                self._exchanges.append(gather)
        self._schedule(copy)

    def _exchange(self, source: ParameterSource, like: "DTensor", slices: tuple[slice, ...]) -> "ColumnExchange | None":
        from flagai.checkpoint.stream.exchange import ColumnExchange, shared_rows

        if source.dimension is not None and len(source.parts) > 1:
            return None
        for group in dtensor.shard_groups(like):
            rows = shared_rows(source.parts[0], slices, group)
            if rows is not None:
                shape = [part.stop - part.start for part in slices]
                return ColumnExchange(rows, torch.empty(shape, dtype=like.dtype, device=self._device), group)
        return None

    def copy(self, source: ParameterSource, target: torch.Tensor) -> None:
        """Overwrite an existing tensor of the same shape, on any device, on leaving."""
        for view, part_of_target in source.copies(target):
            self._schedule(Copy(view, part_of_target))

    def _schedule(self, copy: Copy) -> None:
        if not copy.source.numel():
            return
        device = copy.target.device
        batch = self._batches.setdefault(device, _Batch())
        # Slices of one matrix lie inside of each other's rows: they are read together.
        if device.type != "cpu" and batch.size >= self._enough and _matrix(copy) not in batch.matrices:
            self._pool(device, batch.size).add(batch.copies)
            batch = self._batches[device] = _Batch()
            self._enough = math.inf
        batch.add(copy)
        self.bytes_asked += copy.source.nbytes

    def _pool(self, device: torch.device, size: int) -> ReaderPool:
        """The readers for a device; they leave with this transfer."""
        if device not in self._pools:
            self._pools[device] = self._stack.enter_context(ReaderPool(device, size))
        return self._pools[device]

    def _finish(self) -> None:
        with phase("stream"), self._stack:
            for device, batch in self._batches.items():
                if device.type == "cpu":
                    cast(batch.copies)
                else:
                    self._pool(device, batch.size).add(batch.copies)
            for readers in self._pools.values():
                readers.finish()


class _Batch:
    """Copies that begin together."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []
        self.matrices: set[int] = set()
        self.size = 0

    def add(self, copy: Copy) -> None:
        self.copies.append(copy)
        self.matrices.add(_matrix(copy))
        self.size += copy.source.nbytes


def _matrix(copy: Copy) -> int:
    """Where the tensor of the file begins that the source is a view of; the next file may be mapped before this."""
    return copy.source.untyped_storage().data_ptr()


def exchanges_on(device: torch.device) -> bool:
    """Whether ranks read for each other on a device: on CPUs, all share the file's pages anyway."""
    return device.type == "cuda"
