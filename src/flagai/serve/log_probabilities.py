"""Log-probabilities of generated tokens, and of the candidates beside them, noted while an answer is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenNote:
    """What is known of a place of an answer."""

    candidates: tuple[tuple[int, float], ...]  # the most probable tokens, and their log-probabilities
    chosen: float | None  # the log-probability of the token that was chosen
    scores: torch.Tensor | None  # all log-probabilities, [V], until the token is known


class LogProbabilities:
    """A logits processor for one answer, which changes nothing and notes what it sees.

    Args:
        candidates: how many of the most probable tokens are noted.
    """

    def __init__(self, candidates: int) -> None:
        self._candidates = candidates
        self._notes: dict[int, TokenNote] = {}
        self._prompt: int | None = None

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the scores of the next token, and which one was taken before.

        Args:
            ids: text and answer, [1, 1, T]; -1 where there is none.
            scores: log-probabilities, [1, 1, V].

        Shape:
            -> the scores
        """
        length = int((ids[0, 0] >= 0).sum())
        self._prompt = length if self._prompt is None else min(self._prompt, length)
        place = length - self._prompt
        before = self._notes.get(place - 1)
        if before is not None and before.scores is not None:
            chosen = float(before.scores[ids[0, 0, -1]])
            self._notes[place - 1] = TokenNote(before.candidates, chosen, None)
        values, tokens = scores[0, 0].topk(min(self._candidates, scores.shape[-1]))
        best = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
        self._notes[place] = TokenNote(best, None, scores[0, 0].clone())
        return scores

    def of(self, ids: Sequence[int]) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
        """The log-probability of each token of an answer, and the candidates of its place.

        Args:
            ids: the answer's first tokens.
        """
        found = []
        for place, token in enumerate(ids):
            note = self._notes[place]
            chosen = float(note.scores[token]) if note.scores is not None else note.chosen
            found.append((0.0 if chosen is None else chosen, note.candidates))
        return found
