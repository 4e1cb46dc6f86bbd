"""One group of beams: the best unfinished answers to each text, and the best finished ones.

Source: the rules of keeping and ending are those of transformers 5, so that results agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from flagai.generation.decoding_state import DecodingState
from flagai.generation.forced import ForcedWords
from flagai.generation.options import Decoding
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes


@dataclass
class Candidates:
    """Continuations of the beams, best first; [B, K] each.

    Args:
        values: their scores.
        parents: the beams that they continue.
        tokens: the tokens that they add.
    """

    values: torch.Tensor
    parents: torch.Tensor
    tokens: torch.Tensor

    def take(self, index: torch.Tensor) -> "Candidates":
        """Some of them, in the order of ``index``, [B, N]."""
        return Candidates(*(tensor.gather(1, index) for tensor in (self.values, self.parents, self.tokens)))


class BeamGroup(RowTensors):
    """Beams that compete with each other.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        width: number of beams.
        forced: what every answer must contain; None for nothing.
    """

    reported: ClassVar[tuple[str, ...]] = ("running", "score", "ids", "kept", "stopped", "done", "length", "limit")

    def __init__(self, sizes: Sizes, state: DecodingState, width: int, forced: ForcedWords | None) -> None:
        super().__init__(sizes, state.device)
        self.state = state
        self.width = width
        self.forced = forced
        self.decoding: Decoding = state.decoding
        self.running = self.add("running", width, dtype=torch.float32, fill=-torch.inf)
        self.score = self.add("score", width, dtype=torch.float32, fill=-torch.inf)
        self.ids = self.add("ids", width, sizes.steps)
        self.kept = self.add("kept", width)
        self.stopped = self.add("stopped", width, dtype=torch.bool)
        self.done = self.add("done", dtype=torch.bool, fill=True)
        self.length = self.add("length", 1, dtype=torch.float64)  # of all running answers
        self.limit = self.add("limit", 1, dtype=torch.float64)

    def fill(self, running: Sequence[Running]) -> None:
        """Put new texts in: all beams are alike at the first step, so that only the first one counts."""
        self.put(done=[False] * len(running), limit=[each.request.limit for each in running])
        self.staged("running")[:, 0] = 0

    @property
    def num_candidates(self) -> int:
        """How many continuations are compared: so many that enough stay if all of the best ones end."""
        return max(2, 1 + len(self.decoding.stop_token_ids)) * self.width

    def expand(self, scores: torch.Tensor, first_beam: int, following: torch.Tensor | None = None) -> Candidates:
        """The best continuations.

        Args:
            scores: of the tokens that may follow each beam, [B, W, V].
            first_beam: its first beam among all.
            following: which tokens the scores are of, [B, W, V]; None: of the vocabulary.
        """
        vocabulary = scores.shape[2]
        totals = self.running[:, :, None] + scores
        if self.forced is not None:
            totals = self._unless_complete(totals, self.forced)
        flat, count = totals.flatten(1), self.num_candidates
        few = flat.shape[1] < count
        values, index = (F.pad(flat, (0, count - flat.shape[1]), value=-torch.inf) if few else flat).topk(count)
        index = index.clamp(max=flat.shape[1] - 1) if few else index
        tokens = index % vocabulary if following is None else following.flatten(1).gather(1, index)
        found = Candidates(values, index // vocabulary + first_beam, tokens)
        return found if self.forced is None else self._with_words(found, totals, self.forced)

    def _unless_complete(self, totals: torch.Tensor, forced: ForcedWords) -> torch.Tensor:
        """Forbid the stop ids where words are missing."""
        missing = self.state.in_last_blank() & ~forced.complete(self.state.answers())
        return torch.where(missing[..., None], totals.index_fill(-1, self.state.stop_token_ids, -torch.inf), totals)

    def _with_words(self, found: Candidates, totals: torch.Tensor, forced: ForcedWords) -> Candidates:
        """Add, for every beam, the next token of every word."""
        tokens = forced.following(self.state.answers())
        beams = torch.arange(tokens.shape[1], device=tokens.device)[None, :, None].expand_as(tokens)
        values, tokens, parents = totals.gather(2, tokens).flatten(1), tokens.flatten(1), beams.flatten(1)
        parents, tokens = torch.cat([found.parents, parents], 1), torch.cat([found.tokens, tokens], 1)
        same = (parents[:, :, None] == parents[:, None, :]) & (tokens[:, :, None] == tokens[:, None, :])
        values = torch.cat([found.values, values], 1).masked_fill(same.tril(-1).any(-1), -torch.inf)
        return Candidates(values, parents, tokens).take(values.argsort(dim=1, descending=True, stable=True))

    def advance(self, found: Candidates, hook_stops: torch.Tensor) -> torch.Tensor:
        """Finish the candidates that end, and choose those that go on.

        Args:
            found: the candidates.
            hook_stops: where a hook ends the span, [B, K].

        Returns:
            Indices of those that go on, [B, width].
        """
        self.length = self.length + 1
        stops = self.state.is_stop(found.tokens)
        last = self.state.in_last_blank().gather(1, found.parents)
        full = self.state.span_length.gather(1, found.parents) + 1 >= self.state.max_new_tokens[:, None]
        ends = last & (stops | full | hook_stops)
        ids = self._grown(found)
        self._finish(found, ids, ends, stops, stops | hook_stops)
        alive = found.values.masked_fill(ends, -torch.inf)
        if self.forced is None:
            self.running, chosen = alive.topk(self.width)
        else:
            chosen = self.forced.dynamic_beam_allocation(alive, self._answers(found), self.width)
            self.running = alive.gather(1, chosen)
        self.done = self.done | self._hopeless()
        return chosen

    def _answers(self, found: Candidates) -> torch.Tensor:
        """The candidates' answers, right-aligned, [R, K, S + 1]."""
        before = self.state.answers()
        taken = before.gather(1, found.parents[..., None].expand(-1, -1, before.shape[2]))
        return torch.cat([taken, found.tokens[..., None]], dim=2)

    def _grown(self, found: Candidates) -> torch.Tensor:
        """All ids of the candidates, the start token included, [R, K, steps]."""
        fed, index = self.state.tokens, self.state.token_index.clamp(max=self.sizes.steps - 1)
        ids = fed.gather(1, found.parents[..., None].expand(-1, -1, fed.shape[2]))
        return ids.scatter(2, index[..., None].expand(-1, ids.shape[1], 1), found.tokens[..., None])

    def _finish(
        self, found: Candidates, ids: torch.Tensor, ends: torch.Tensor, stops: torch.Tensor, stopped: torch.Tensor
    ) -> None:
        """Put ended candidates among the finished answers."""
        counted = ends & ~self.done[:, None]
        if self.forced is None:
            # Worse ones are there only to go on if all of the best end; as in transformers, they may not finish.
            counted = counted & (torch.arange(counted.shape[1], device=counted.device) < self.width)
        else:
            counted = counted & self.forced.complete(self._answers(found))
        scores = (found.values / self._norm(self.length)).masked_fill(~counted, -torch.inf)
        kept = self.state.token_index + (~stops).long()
        self.score, best = torch.cat([self.score, scores], dim=1).topk(self.width)
        self.ids = torch.cat([self.ids, ids], dim=1).gather(1, best[..., None].expand(-1, -1, ids.shape[2]))
        self.kept = torch.cat([self.kept, kept], dim=1).gather(1, best)
        self.stopped = torch.cat([self.stopped, stopped], dim=1).gather(1, best)

    def _hopeless(self) -> torch.Tensor:
        """Where no unfinished answer can matter any more, [B]."""
        early = self.decoding.early_stopping
        # "never" is exact, so it suffices that those which are returned are safe.
        needed = min(self.decoding.num_return_sequences, self.width) if early == "never" else self.width
        worst = self.score[:, needed - 1]
        enough = worst > -torch.inf
        over = (self.running == -torch.inf).all(1)
        return over | (enough if early is True else enough & (self.bound().amax(1) <= worst))

    def bound(self) -> torch.Tensor:
        """The best scores that unfinished answers may reach, [B, W]."""
        grows = self.decoding.early_stopping == "never" and self.decoding.length_penalty > 0
        return self.running / self._norm(self.limit if grows else self.length)

    def _norm(self, lengths: torch.Tensor) -> torch.Tensor:
        """What scores of answers of these lengths are divided by."""
        return (lengths**self.decoding.length_penalty).float()
