"""Plan reads: copies from files, divided by rows and joined to ranges of a file, none larger than a limit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flagai.checkpoint.mapped_files import FileMap, byte_range

# Reads begin at whole pages of the file, so that every element in a buffer lies as aligned as it does there.
PAGE = 4096
# Copies that are closer together than this are read at once.
GAP = 64 << 10


@dataclass(frozen=True)
class Copy:
    """One tensor to copy: from a view of a mapped file, or any tensor on the CPU, to a target of the same shape."""

    source: torch.Tensor
    target: torch.Tensor

    def in_memory_order(self) -> "Copy":
        """The same copy with the source's dimensions in descending order of strides; flat if both sides are dense."""
        if self._is_flat:
            return Copy(self.source.view(-1), self.target.view(-1))
        order = sorted(range(self.source.dim()), key=self.source.stride, reverse=True)
        turned = Copy(self.source.permute(order), self.target.permute(order))
        return turned.in_memory_order() if turned._is_flat else turned

    def split(self, limit: int) -> Iterator["Copy"]:
        """Split by rows, so that the rows of a part span at most ``limit`` bytes of the source if one row does."""
        if self._is_flat and self.source.nbytes <= limit:  # most of a model's tensors; views of them would cost more
            yield self
            return
        whole = self.in_memory_order()
        row_bytes = whole.source.stride(0) * whole.source.itemsize
        # A slice lies somewhere inside of its rows. Slices of one matrix, such as q, k and v, are split at the same
        # rows, and all of them fit into one read: each byte of the file is read once.
        spare = 0 if whole.source.is_contiguous() else row_bytes
        step = max(1, (limit - spare) // max(row_bytes, 1))
        for source, target in zip(whole.source.split(step), whole.target.split(step), strict=True):
            yield Copy(source, target)

    @property
    def is_plain(self) -> bool:
        """Whether the target takes the source's bytes as they are."""
        return self.source.dtype == self.target.dtype and self._is_flat

    @property
    def _is_flat(self) -> bool:
        return self.source.is_contiguous() and self.target.is_contiguous()


@dataclass
class Read:
    """A range of one file that is read at once; each copy has the byte within the range where its source begins."""

    file: Path
    begin: int
    end: int
    copies: list[tuple[int, Copy]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.begin


def plan_reads(copies: Iterable[Copy], limit: int, files: FileMap | None = None) -> tuple[list[Read], list[Copy]]:
    """Arrange copies as reads of at most ``limit`` bytes, in the order of the mapped files.

    Returns:
        The reads, and the copies whose source is in no file or has longer rows: torch makes those.
    """
    files = files or FileMap()
    placed: list[tuple[Path, int, int, Copy]] = []
    others = []
    for copy in copies:
        place = files.find(copy.source)
        if place is None:
            others.append(copy)
            continue
        (file, offset), start = place, copy.source.data_ptr()
        for part in copy.split(limit - PAGE):
            begin, end = (offset + address - start for address in byte_range(part.source))
            if end - begin > limit - PAGE:
                others.append(part)
            else:
                placed.append((file, begin, end, part))
    reads: list[Read] = []
    for file, begin, end, part in sorted(placed, key=lambda entry: entry[:2]):
        last = reads[-1] if reads else None
        if last is None or last.file != file or begin > last.end + GAP or max(end, last.end) - last.begin > limit:
            last = Read(file, begin // PAGE * PAGE, end)
            reads.append(last)
        last.end = max(last.end, end)
        last.copies.append((begin - last.begin, part))
    return reads, others
