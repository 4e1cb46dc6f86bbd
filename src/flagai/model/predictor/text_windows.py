"""Texts with more tokens than an encoder reads at once: overlapping windows, and one answer for each token."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from flagai.data.prepare.batch import checked_limit
from flagai.data.prepare.bert import BertInput

# The part of a window that its neighbour reads, too: a token is answered for by the window that sees most around it.
_OVERLAP = 4


@dataclass(frozen=True)
class Window:
    """A part of a text."""

    text: int  # which text it is of
    row: BertInput  # its tokens, with `[CLS]` and `[SEP]`
    begin: int  # where its first token, `[CLS]`, would stand in the whole row
    own: range  # the tokens of the whole row that it answers for

    def mine(self, answers: torch.Tensor) -> torch.Tensor:
        """The answers for the tokens that it answers for, of those for all its tokens."""
        return answers[self.own.start - self.begin : self.own.stop - self.begin]


def windows_of(rows: Sequence[BertInput], size: int) -> list[Window]:
    """The windows of texts, in order; one for a text that fits."""
    return [window for index, row in enumerate(rows) for window in _windows(index, row, size)]


def _windows(text: int, row: BertInput, size: int) -> list[Window]:
    count = len(row.ids)
    if count <= size:
        return [Window(text, row, 0, range(count))]
    room = checked_limit(size - 2)  # beside [CLS] and [SEP]
    begins = [*range(0, count - size, max(1, room - room // _OVERLAP)), count - size]
    # A token changes hands in the middle of what two windows share.
    ends = [0, *((first + second + size) // 2 for first, second in pairwise(begins)), count]
    return [
        Window(text, row.part(begin, begin + size), begin, range(*own))
        for begin, own in zip(begins, pairwise(ends), strict=True)
    ]


def joined(windows: Sequence[Window], answers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The answers for all tokens of each text."""
    parts: dict[int, list[torch.Tensor]] = {}
    for window, found in zip(windows, answers, strict=True):
        parts.setdefault(window.text, []).append(window.mine(found))
    return [torch.cat(part) for part in parts.values()]
