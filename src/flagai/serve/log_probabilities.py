"""Log-probabilities of generated tokens, and of the candidates beside them, noted while an answer is written."""

from dataclasses import dataclass
from typing import Any

import torch

from flagai.data.tokenizer import Tokenizer
from flagai.generation import Request


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

    def of(self, place: int, token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
        """The log-probability of a token of an answer, and the candidates of its place.

        Args:
            place: of the token in the answer.
            token: its id.
        """
        note = self._notes[place]
        chosen = float(note.scores[token]) if note.scores is not None else note.chosen
        return (0.0 if chosen is None else chosen), note.candidates


class TokenReport:
    """What ``logprobs`` of OpenAI's completions says of an answer, in parts as the answer is written.

    Args:
        request: of the answer, with :class:`LogProbabilities`.
        tokenizer: of the model.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        self._request = request
        self._notes = next(each for each in request.logits_processors if isinstance(each, LogProbabilities))
        self._tokenizer = tokenizer
        self._told = 0
        self._offset = 0

    def rest(self, shown: int | None = None) -> dict[str, list[Any]]:
        """The tokens that were not reported before.

        Args:
            shown: how many characters of the answer the client has, so that later tokens wait; None for all tokens of a
                complete answer.
        """
        request, tokenizer = self._request, self._tokenizer
        ids = request.hypotheses[0].ids if shown is None else [each for piece in request.certain for each in piece]
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for place in range(self._told, len(ids)):
            text = tokenizer.decode(ids[: place + 1])
            if shown is not None and len(text) > shown:
                break
            chosen, best = self._notes.of(place, ids[place])
            if all(each != ids[place] for each, _ in best):  # OpenAI tells the chosen token, too
                best = (*best, (ids[place], chosen))
            names = tokenizer.convert_ids_to_tokens([each for each, _ in best])
            found["tokens"].append(text[self._offset :])
            found["token_logprobs"].append(chosen)
            found["top_logprobs"].append(dict(zip(names, (value for _, value in best), strict=True)))
            found["text_offset"].append(self._offset)
            self._told, self._offset = place + 1, len(text)
        return found
