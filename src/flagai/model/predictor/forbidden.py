"""Texts that an answer must not contain, in whatever tokens they are written."""

import bisect
from collections.abc import Iterable, Sequence

import torch

from flagai.data.tokenizer import Tokenizer

# What parts a prompt from its answer, and the answers for two blanks: no text goes on across them.
_BORDERS = ("sop", "eop", "sep", "eos")


class ForbiddenTexts:
    """Forbids every token that would complete one of some texts, for a model that scores ``rows`` tokens."""

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer, rows: int) -> None:
        self.patterns = [pattern for pattern in map(tokenizer.pattern, dict.fromkeys(texts)) if pattern]
        if not self.patterns:
            return
        self._pieces = tokenizer.token_bytes
        self._borders = {tokenizer.find_command_id(name) for name in _BORDERS}
        self._longest = max(map(len, self.patterns)) - 1
        pieces = [(piece, number) for number, piece in enumerate(self._pieces[:rows]) if piece]
        self._whole = [n for piece, n in pieces if any(pattern in piece for pattern in self.patterns)]
        self._ordered = sorted(pieces)
        self._rests: dict[bytes, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Score forbidden tokens -inf in [B, W, V], after ids [B, W, T] that end with the newest; -1 is not an id."""
        scores = scores.clone()
        scores[..., self._whole] = -torch.inf
        for row, lanes in enumerate(ids.tolist()):
            for lane, history in enumerate(lanes):
                scores[row, lane, self._completing(self._end(history))] = -torch.inf
        return scores

    def _completing(self, end: bytes) -> list[int]:
        """The tokens that complete a text of which a beginning stands at the end."""
        rests = {
            pattern[count:]
            for pattern in self.patterns
            for count in range(1, min(len(pattern) - 1, len(end)) + 1)
            if end.endswith(pattern[:count])
        }
        return [number for rest in rests for number in self._beginning(rest)]

    def _beginning(self, rest: bytes) -> list[int]:
        """The tokens whose text begins so."""
        if rest not in self._rests:
            first = bisect.bisect_left(self._ordered, (rest, -1))
            found = self._rests[rest] = []
            for piece, number in self._ordered[first:]:
                if not piece.startswith(rest):
                    break
                found.append(number)
        return self._rests[rest]

    def _end(self, history: Sequence[int]) -> bytes:
        """The last bytes that are written."""
        end = b""
        for number in reversed(history):
            if len(end) >= self._longest or number < 0 or number in self._borders:
                break
            end = (self._pieces[number] if number < len(self._pieces) else b"") + end
        return end
