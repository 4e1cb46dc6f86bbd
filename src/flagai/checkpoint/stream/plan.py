"""Cut copies into pieces: rows of a window of a file, and where they go, none larger than a chunk."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flagai.checkpoint.stream.memory import FileMap, extent

# Chunks begin at whole pages of the file, so that every element in a buffer lies as aligned as it does there.
PAGE = 4096
# Pieces that are closer together than this are read at once.
_GAP = 64 << 10


@dataclass(frozen=True)
class Move:
    """One tensor to copy.

    Args:
        source: a view of a mapped file, or any tensor on the CPU.
        target: where its values shall be, in the same shape.
    """

    source: torch.Tensor
    target: torch.Tensor

    def aligned(self) -> "Move":
        """The same copy with the source's dimensions from far to near; flat, if both sides lie without gaps."""
        if self._is_flat:
            return Move(self.source.view(-1), self.target.view(-1))
        order = sorted(range(self.source.dim()), key=self.source.stride, reverse=True)
        source, target = self.source.permute(order), self.target.permute(order)
        if source.is_contiguous() and target.is_contiguous():
            return Move(source.view(-1), target.view(-1))
        return Move(source, target)

    def cut(self, limit: int) -> Iterator["Move"]:
        """Split into rows, so that the rows of a piece span at most ``limit`` bytes of the source if one row does."""
        if self._is_flat and self.source.nbytes <= limit:  # most of a model's tensors; views of them would cost more
            yield self
            return
        move = self.aligned()
        row_bytes = move.source.stride(0) * move.source.itemsize
        # A window lies somewhere inside of its rows. Windows of one matrix, such as q, k and v, are cut at the same
        # rows, and all of them fit into one chunk: each byte of the file is read once.
        spare = 0 if move.source.is_contiguous() else row_bytes
        step = max(1, (limit - spare) // max(row_bytes, 1))
        for source, target in zip(move.source.split(step), move.target.split(step), strict=True):
            yield Move(source, target)

    @property
    def is_plain(self) -> bool:
        """Whether the target takes the source's bytes as they are."""
        return self.source.dtype == self.target.dtype and self._is_flat

    @property
    def _is_flat(self) -> bool:
        return self.source.is_contiguous() and self.target.is_contiguous()


@dataclass
class Chunk:
    """A range of one file that is read at once.

    Args:
        file: the file.
        begin: the first byte.
        end: the byte behind the last one.
        moves: what to take out of it: the byte within the chunk where each one's source begins.
    """

    file: Path
    begin: int
    end: int
    moves: list[tuple[int, Move]] = field(default_factory=list)


def plan(moves: Iterable[Move], limit: int, files: FileMap | None = None) -> tuple[list[Chunk], list[Move]]:
    """Arrange copies as reads of at most ``limit`` bytes, in the order of the files.

    Args:
        moves: the copies.
        limit: the size of a chunk.
        files: which files are mapped; default as it is now.

    Returns:
        The reads, and the copies of what lies in no file or has longer rows: those take the ordinary way.
    """
    files = files or FileMap()
    found: list[tuple[Path, int, int, Move]] = []
    others = []
    for move in moves:
        place = files.find(move.source)
        if place is None:
            others.append(move)
            continue
        start = move.source.data_ptr()
        for piece in move.cut(limit - PAGE):
            begin, end = (place.offset + address - start for address in extent(piece.source))
            if end - begin > limit - PAGE:
                others.append(piece)
            else:
                found.append((place.file, begin, end, piece))
    return _join(sorted(found, key=lambda entry: entry[:2]), limit), others


def _join(found: list[tuple[Path, int, int, Move]], limit: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    for file, begin, end, move in found:
        last = chunks[-1] if chunks else None
        if last is None or last.file != file or begin > last.end + _GAP or max(end, last.end) - last.begin > limit:
            last = Chunk(file, begin // PAGE * PAGE, end)
            chunks.append(last)
        last.end = max(last.end, end)
        last.moves.append((begin - last.begin, move))
    return chunks
