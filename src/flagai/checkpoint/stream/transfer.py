"""Bring the values of parameters to where they shall be, by the way that suits the place.

The same device and type: a view of the mapped file, nothing is moved. Another type on the CPU: cast from the mapping,
chunk by chunk, by all cores. Another device: streamed. All are announced first and moved together.
"""

import math
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import torch

from flagai.checkpoint.matching import ParameterSource
from flagai.checkpoint.report import phase
from flagai.checkpoint.stream.cast import cast
from flagai.checkpoint.stream.memory import empty_like
from flagai.checkpoint.stream.plan import Move
from flagai.checkpoint.stream.readers import Stream, exactly
from flagai.parallel import dtensor

if TYPE_CHECKING:  # loaded when a mesh is used: seconds
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

    from flagai.checkpoint.stream.exchange import Gather, Swap

# When so many bytes are announced, copies to a device begin; the rest is announced at once. Announcing and reading at
# the same time, sixteen readers and this thread wait for Python's lock in turns: two ranks took 0.80 s with batches of
# 1 GB and 0.66 s with this, one GPU each, in the same run; 0.84 s if nothing was read before all was announced.
_FIRST_BATCH = 1 << 28


class Transfer:
    """The copies of one load: announced by :meth:`read` and :meth:`copy`, done on leaving, if no exception is raised.

    Copies to other devices begin when there are enough of them; the rest follows when all is announced.

    Args:
        device: where new tensors shall be.
        size: about how many bytes of new tensors there will be.
        replicas: ranks that will have the same tensors; on devices they read them together.
        readers: of the device, if some are there already.
    """

    def __init__(
        self,
        device: torch.device,
        size: int = 0,
        replicas: "ProcessGroup | None" = None,
        readers: Stream | None = None,
    ) -> None:
        self.bytes_asked = 0  # of the files
        self._device = device = exactly(device)
        self._replicas = replicas if swaps_on(device) else None
        self._batches: dict[torch.device, _Batch] = {}
        self._streams: dict[torch.device, Stream] = {} if readers is None else {device: readers}
        self._exchanges: list[Gather | Swap] = []
        self._stack = ExitStack()
        self._enough: float = _FIRST_BATCH
        if device.type == "cuda" and size:
            _reserve(device, size)
            self._stream(device, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Do all that was announced; after an exception, do nothing more.

        Raises:
            CheckpointError: a file ended early or cannot be read; the tensors' values are undefined then.
        """
        if raised[0] is not None:
            self._stack.__exit__(*raised)
        elif self._exchanges:
            self._finish_together()
        else:
            self._finish()

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
        as_it_lies = whole and not in_order
        if on_cpu:
            target = empty_like(part if as_it_lies else part.new_empty(source.shape, device="meta"), dtype)
        elif as_it_lies:
            target = torch.empty_like(part, dtype=dtype, device=self._device)
        else:
            target = torch.empty(source.shape, dtype=dtype, device=self._device)
        for part, piece in source.copies(target):
            self._read(Move(part, piece))
        return target

    def read_part(self, source: ParameterSource, like: "DTensor") -> torch.Tensor:
        """A tensor that has this rank's part of the values of a source on leaving.

        Args:
            source: the whole.
            like: a sharded tensor, which says what the part is.
        """
        window = dtensor.local_slices(like) or ()
        swap = self._swap(source, like, window) if swaps_on(self._device) else None
        if swap is None:
            # A view while the window is one piece of the file; columns of a matrix are copied out.
            return self.read(source.shard(window), like.dtype, in_order=True)
        self._read(swap.read())
        self._exchanges.append(swap)
        return swap.target

    def _read(self, move: Move) -> None:
        """Announce a copy into new memory, or this rank's share of it."""
        if self._replicas is not None and move.source.numel():
            from flagai.checkpoint.stream.exchange import gather_of

            shared = gather_of(move, self._replicas)
            if shared is not None:
                move, gather = shared
                self._exchanges.append(gather)
        self._announce(move)

    def _swap(self, source: ParameterSource, like: "DTensor", window: tuple[slice, ...]) -> "Swap | None":
        from flagai.checkpoint.stream.exchange import Swap, shared_rows

        if source.dimension is not None and len(source.parts) > 1:
            return None
        for cut in dtensor.shard_groups(like):
            rows = shared_rows(source.parts[0], window, cut)
            if rows is not None:
                extents = [part.stop - part.start for part in window]
                return Swap(rows, torch.empty(extents, dtype=like.dtype, device=self._device), cut)
        return None

    def copy(self, source: ParameterSource, target: torch.Tensor) -> None:
        """Overwrite an existing tensor on leaving.

        Args:
            source: what to read.
            target: a tensor of the same shape, on any device.
        """
        for part, piece in source.copies(target):
            self._announce(Move(part, piece))

    def _announce(self, move: Move) -> None:
        if not move.source.numel():
            return
        device = move.target.device
        batch = self._batches.setdefault(device, _Batch())
        # Windows of one matrix lie inside of each other's rows: they are read together.
        if device.type != "cpu" and batch.size >= self._enough and _matrix(move) not in batch.matrices:
            self._stream(device, batch.size).add(batch.moves)
            batch = self._batches[device] = _Batch()
            self._enough = math.inf
        batch.add(move)
        self.bytes_asked += move.source.nbytes

    def _stream(self, device: torch.device, size: int) -> Stream:
        """The readers for a device; they leave with this transfer."""
        if device not in self._streams:
            self._streams[device] = self._stack.enter_context(Stream(device, size))
        return self._streams[device]

    def _finish(self) -> None:
        with phase("stream"), self._stack:
            for device, batch in self._batches.items():
                if device.type == "cpu":
                    cast(batch.moves)
                else:
                    self._stream(device, batch.size).add(batch.moves)
            for readers in self._streams.values():
                readers.finish()

    def _finish_together(self) -> None:
        """The same for ranks that exchange: all wait for all, and fail together."""
        from flagai.checkpoint.stream.exchange import agree

        failure: Exception | None = None
        try:
            self._finish()
        except Exception as error:  # noqa: BLE001 - raised below, when the others are not left waiting
            failure = error
        with phase("exchange"):
            agree([*{exchange.ranks: None for exchange in self._exchanges}], self._device, failure)
            for exchange in self._exchanges:
                exchange.run()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)


class _Batch:
    """Copies that begin together."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.matrices: set[int] = set()
        self.size = 0

    def add(self, move: Move) -> None:
        self.moves.append(move)
        self.matrices.add(_matrix(move))
        self.size += move.source.nbytes


def _matrix(move: Move) -> int:
    """Where the tensor of the file begins that the source is a window of; the next file may be mapped before this."""
    return move.source.untyped_storage().data_ptr()


def swaps_on(device: torch.device) -> bool:
    """Whether ranks read for each other on a device: on CPUs, all have the file's pages in common anyway."""
    return device.type == "cuda"


def _reserve(device: torch.device, size: int) -> None:
    """Ask for the memory of all parameters at once: the allocator keeps it and hands it out in pieces."""
    with suppress(torch.OutOfMemoryError):  # then piece by piece may still succeed
        torch.empty(size, dtype=torch.uint8, device=device)
