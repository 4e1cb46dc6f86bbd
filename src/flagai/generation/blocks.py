"""Which slots of the paged cache are free: blocks of fixed size that texts take and give back."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Slots of a block.
BLOCK = 16


class BlockPool:
    """Free blocks, as ranges: neighbours are handed out together, which a CPU reads without copying.

    Args:
        num_blocks: how many there are; the first is not handed out, it has the scratch slot.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = max(num_blocks, 1)
        self._ranges: list[tuple[int, int]] = [(1, num_blocks)] if num_blocks > 1 else []
        self.num_free = self.num_blocks - 1

    def take(self, count: int) -> list[int] | None:
        """Hand blocks out, in one range if there is one; None if there are not so many.

        Args:
            count: how many.
        """
        if count > self.num_free:
            return None
        whole = next((each for each in self._ranges if each[1] - each[0] >= count), None)
        found: list[int] = []
        while len(found) < count:
            begin, end = whole or self._ranges[-1]
            taken = min(count - len(found), end - begin)
            found += range(begin, begin + taken)
            self._ranges.remove((begin, end))
            if begin + taken < end:
                insort(self._ranges, (begin + taken, end))
        self.num_free -= count
        return found

    def give_back(self, blocks: Iterable[int]) -> None:
        """Take blocks back."""
        for block in sorted(blocks):
            self._free(block, block + 1)

    def _free(self, begin: int, end: int) -> None:
        self.num_free += end - begin
        place = bisect_left(self._ranges, (begin, end))
        if place < len(self._ranges) and self._ranges[place][0] == end:
            end = self._ranges.pop(place)[1]
        if place and self._ranges[place - 1][1] == begin:
            begin = self._ranges.pop(place - 1)[0]
        insort(self._ranges, (begin, end))

    def grow(self, num_blocks: int) -> None:
        """Add blocks, up to so many in all."""
        self._free(self.num_blocks, num_blocks)
        self.num_blocks = num_blocks


def slots_of(blocks: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The slots of blocks, in their order."""
    return (np.array(blocks, dtype=np.int64)[:, None] * BLOCK + np.arange(BLOCK)).ravel()
