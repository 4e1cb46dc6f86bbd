"""Changes of the scores before a token is chosen, each a pure function of histories and scores.

Histories are [B, W, T], the last token at the end and -1 where there is none; scores are [B, W, V].

Source: the order and the definitions are FlagAI's; the n-gram and bad-word rules are those of transformers.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flagai.errors import InputError
from flagai.generation.decoding_state import DecodingState
from flagai.generation.options import Decoding
from flagai.generation.types import LogitsProcessor

_COLDEST = 1e-30


def repetition_penalty(ids: torch.Tensor, scores: torch.Tensor, penalty: float | torch.Tensor) -> torch.Tensor:
    """Make ids of the history less likely: negative scores are multiplied, positive ones divided, once per id."""
    # A beam's last token stands in for its missing ones: writing the same value twice does no harm.
    ids = torch.where(ids < 0, ids[..., -1:], ids)
    found = scores.gather(-1, ids)
    return scores.scatter(-1, ids, torch.where(found < 0, found * penalty, found / penalty))


def temperature(_: torch.Tensor, scores: torch.Tensor, value: float | torch.Tensor) -> torch.Tensor:
    """Divide the scores; below ``_COLDEST``, where only the best is left long since, they would overflow."""
    return scores / (value.clamp(min=_COLDEST) if isinstance(value, torch.Tensor) else max(value, _COLDEST))


def top_k(_: torch.Tensor, scores: torch.Tensor, count: float) -> torch.Tensor:
    """Keep the best scores and those as good as the last of them."""
    lowest = scores.topk(min(int(count), scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < lowest, -torch.inf)


def top_p(_: torch.Tensor, scores: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
    """Keep the best tokens until their probabilities exceed ``share``; the one that crosses it stays."""
    ordered, order = scores.sort(dim=-1, descending=True)
    reached = ordered.softmax(-1).cumsum(-1) > share
    dropped = torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], dim=-1)
    return scores.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)


def no_repeat_ngram(ids: torch.Tensor, scores: torch.Tensor, size: int) -> torch.Tensor:
    """Forbid tokens that would complete a sequence of ``size`` ids that the history has already."""
    if ids.shape[-1] < size:
        return scores
    windows = ids.unfold(-1, size, 1)
    tail = ids[..., ids.shape[-1] - size + 1 :]
    repeats = (windows[..., :-1] == tail[..., None, :]).all(-1) & (windows >= 0).all(-1)
    return _forbid(scores, windows[..., -1].clamp(min=0), repeats)


def forbid_sequences(ids: torch.Tensor, scores: torch.Tensor, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Forbid the last id of sequences whose other ids have just been written.

    Args:
        ids: the histories.
        scores: the scores.
        sequences: all those of one length together, [N, length].
    """
    for same_length in sequences:
        before = same_length.shape[1] - 1
        if ids.shape[-1] < before:
            continue
        tail = ids[..., None, ids.shape[-1] - before :]
        complete = (tail == same_length[:, :-1]).all(-1)
        scores = _forbid(scores, same_length[:, -1].expand_as(complete), complete)
    return scores


def _checked(found: Any, scores: torch.Tensor) -> torch.Tensor:
    """What a caller's processor returns, if it is scores: numbers below infinity where it was given such."""
    if not isinstance(found, torch.Tensor) or found.shape != scores.shape or not found.is_floating_point():
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(f"A logits processor returned {what}; expected scores {list(scores.shape)}, as it was given.")
    wrong = ~(found < torch.inf) & (scores < torch.inf)  # also NaN
    if bool(wrong.any()):
        raise InputError(
            f"A logits processor returned {float(found[wrong][0])} as a score of token {int(wrong.nonzero()[0, -1])}; "
            "expected numbers, and -inf for a token that is forbidden."
        )
    return found


def _forbid(scores: torch.Tensor, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Give ids the score -inf; [B, W, N] each."""
    limit = torch.zeros_like(where, dtype=scores.dtype).masked_fill(where, -torch.inf)
    # A token's limit is the least of all that were set for it.
    return scores + torch.zeros_like(scores).scatter_reduce(-1, ids, limit, "amin")


SamplingFunction = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
# name: (function, the value that changes nothing)
SAMPLING_ORDER: dict[str, tuple[SamplingFunction, float]] = {
    "repetition_penalty": (repetition_penalty, 1),
    "temperature": (temperature, 1),
    "top_k": (top_k, 0),
    "top_p": (top_p, 1),
}


# Those whose value each text of a batch has for itself.
PER_TEXT = ("repetition_penalty", "temperature", "top_p")


def active_functions(decoding: Decoding) -> tuple[str, ...]:
    """The functions of ``SAMPLING_ORDER`` that change scores, in the order of the options."""
    return tuple(
        name
        for name in decoding.processors
        if getattr(decoding, name) not in (SAMPLING_ORDER[name][1], None)
        and (decoding.do_sample or name == "repetition_penalty")
    )


class LogitsProcessorList:
    """From logits to the scores among which a token is chosen.

    Log-probabilities; what is forbidden; what the caller adds; then FlagAI's four, of which only the repetition
    penalty applies without drawing.

    Args:
        decoding: the options.
        added: the caller's processors.
        state: the answers so far; it gets a tensor of each value that differs between texts.
    """

    def __init__(self, decoding: Decoding, added: Sequence[LogitsProcessor], state: DecodingState) -> None:
        self.decoding = decoding
        self.added = added
        self.state = state
        banned = [*decoding.suppress_tokens, *([state.start_id or 0] if state.protocol.spans else [])]
        self.banned = torch.tensor(banned, dtype=torch.long, device=state.device)
        by_length = itertools.groupby(sorted(decoding.bad_words_ids, key=len), key=len)
        self.bad_words_ids = [torch.tensor(list(words), device=state.device) for _, words in by_length]
        self.ordered = active_functions(decoding)
        for name in self.ordered:
            if name in PER_TEXT:
                state.add(name, 1, 1, dtype=torch.float32, fill=1)

    @property
    def changes_nothing(self) -> bool:
        """Whether scores are the model's own log-probabilities."""
        return self.only_bans and not (self.state.protocol.spans or len(self.banned))

    @property
    def only_bans(self) -> bool:
        """Whether they are, but for ids that are never allowed and blanks that must be closed."""
        return not (self.looks_back or self.decoding.min_new_tokens or self.ordered)

    @property
    def looks_back(self) -> bool:
        """Whether scores depend on the history."""
        decoding = self.decoding
        return bool(
            self.added or self.bad_words_ids or decoding.no_repeat_ngram_size or decoding.repetition_penalty != 1
        )

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the tokens that may follow.

        Args:
            logits: [B, W, V]

        Returns:
            The log-probabilities without banned ids, and the scores after all processors; both float32, [B, W, V].
        """
        plain = logits.log_softmax(-1, dtype=torch.float32)
        if len(self.banned):
            plain = plain.index_fill(-1, self.banned, -torch.inf)
        ids = self.state.history() if self.looks_back else self.state.text
        ids = ids[:, : plain.shape[1]] if self.looks_back else ids  # lanes that are alike have one row of scores
        scores = self._limited(ids, plain)
        for processor in self.added:
            scores = _checked(processor(ids, scores), scores)
        for name in self.ordered:
            value = getattr(self.state if name in PER_TEXT else self.decoding, name)
            scores = SAMPLING_ORDER[name][0](ids, scores, value)
        if not self.state.protocol.spans:
            return plain, scores
        closed = self._closed(plain)
        return closed, closed if scores is plain else self._closed(scores)

    def best(self, logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best scores of each lane and their tokens, as of all scores, for ``only_bans`` without spans.

        Logits and log-probabilities have one order, so that no other scores need to be compared.

        Args:
            logits: [B, W, V]
            count: how many, K.

        Shape:
            -> two of [B, W, K]
        """
        allowed = logits.index_fill(-1, self.banned, -torch.inf) if len(self.banned) else logits
        found, tokens = allowed.topk(min(count, logits.shape[-1]))
        scores = logits.log_softmax(-1, dtype=torch.float32).gather(-1, tokens)
        return scores.masked_fill(found == -torch.inf, -torch.inf) if len(self.banned) else scores, tokens

    def _limited(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.decoding.min_new_tokens and len(self.state.stop_token_ids):
            early = (self.state.span_length < self.state.min_new_tokens[:, None])[:, : scores.shape[1]]
            stopped = scores.index_fill(-1, self.state.stop_token_ids, -torch.inf)
            scores = torch.where(early[..., None], stopped, scores)
        if self.decoding.no_repeat_ngram_size:
            scores = no_repeat_ngram(ids, scores, self.decoding.no_repeat_ngram_size)
        return forbid_sequences(ids, scores, self.bad_words_ids)

    def _closed(self, scores: torch.Tensor) -> torch.Tensor:
        """Where a blank must be closed, its stop id is the only choice, and costs nothing."""
        only = torch.full_like(scores[:1, :1], -torch.inf)
        only[..., self.decoding.stop_token_ids[0]] = 0
        return torch.where(self.state.closing()[:, : scores.shape[1], None], only, scores)
