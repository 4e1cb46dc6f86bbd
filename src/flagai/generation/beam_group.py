"""One group of beams: the best unfinished answers to each text, and the best finished ones.

Source: the rules of keeping and ending are those of transformers 5, so that results agree.
"""

from dataclasses import dataclass

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.forced import ForcedWords
from flagai.generation.options import Decoding


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


class BeamGroup:
    """Beams that compete with each other.

    Args:
        state: the texts.
        width: number of beams.
        forced: what every answer must contain; None for nothing.
    """

    PER_TEXT = ("running", "score", "ids", "kept", "stopped", "done")

    def __init__(self, state: DecodingState, width: int, forced: ForcedWords | None) -> None:
        self.state = state
        self.width = width
        self.forced = forced
        self.decoding: Decoding = state.decoding
        batch = len(state.ids)
        self.running = torch.zeros(batch, 1, device=state.device)
        self.score = torch.full((batch, width), -torch.inf, device=state.device)
        self.ids = torch.zeros(batch, width, state.limit + 2, dtype=torch.long, device=state.device)
        self.kept = torch.zeros(batch, width, dtype=torch.long, device=state.device)
        self.stopped = torch.zeros(batch, width, dtype=torch.bool, device=state.device)
        self.done = torch.zeros(batch, dtype=torch.bool, device=state.device)
        self.length = torch.zeros((), dtype=torch.double, device=state.device)  # of all running answers

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these texts."""
        for name in self.PER_TEXT:
            setattr(self, name, getattr(self, name).index_select(0, rows))

    def expand(self, scores: torch.Tensor, first_beam: int) -> Candidates:
        """The best continuations: so many that enough stay if all of the best ones end.

        Args:
            scores: of the tokens that may follow each beam, [B, W, V].
            first_beam: its first beam among all.
        """
        vocabulary = scores.shape[2]
        totals = self.running[:, :, None] + scores
        if self.forced is not None:
            totals = self._unless_complete(totals, self.forced)
        kinds = max(2, 1 + len(self.decoding.stop_token_ids))
        flat = totals.flatten(1)
        values, index = flat.topk(min(kinds * self.width, flat.shape[1]))
        found = Candidates(values, index // vocabulary + first_beam, index % vocabulary)
        return found if self.forced is None else self._with_words(found, totals, self.forced)

    def _unless_complete(self, totals: torch.Tensor, forced: ForcedWords) -> torch.Tensor:
        """Forbid the stop ids where words are missing."""
        missing = self.state.in_last_blank() & ~forced.complete(self.state.generated())
        return torch.where(missing[..., None], totals.index_fill(-1, self.state.stop_token_ids, -torch.inf), totals)

    def _with_words(self, found: Candidates, totals: torch.Tensor, forced: ForcedWords) -> Candidates:
        """Add, for every beam, the next token of every word."""
        tokens = forced.following(self.state.generated())
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
        full = self.state.beams.span_length.gather(1, found.parents) + 1 >= self.decoding.max_new_tokens
        ends = last & (stops | full | hook_stops)
        ids = self._grown(found)
        self._finish(found, ids, ends, stops, stops | hook_stops)
        alive = found.values.masked_fill(ends, -torch.inf)
        if self.forced is None:
            self.running, chosen = alive.topk(min(self.width, alive.shape[1]))
        else:
            chosen = self.forced.dynamic_beam_allocation(alive, ids[:, :, self._written()], self.width)
            self.running = alive.gather(1, chosen)
        self.done = self.done | self._hopeless()
        return chosen

    def _written(self) -> slice:
        """Where the answer stands in a candidate's ids."""
        return slice(int(self.state.protocol.starts), self.state.count + 1)

    def _grown(self, found: Candidates) -> torch.Tensor:
        """All ids of the candidates, the start token included, [B, K, steps]."""
        fed = self.state.beams.tokens
        ids = fed.gather(1, found.parents[..., None].expand(-1, -1, fed.shape[2]))
        return ids.index_copy_(2, self.state.token_index, found.tokens[..., None])

    def _finish(
        self, found: Candidates, ids: torch.Tensor, ends: torch.Tensor, stops: torch.Tensor, stopped: torch.Tensor
    ) -> None:
        """Put ended candidates among the finished answers."""
        counted = ends & ~self.done[:, None]
        if self.forced is None:
            # Worse ones are there only to go on if all of the best end; as in transformers, they may not finish.
            counted = counted & (torch.arange(counted.shape[1], device=counted.device) < self.width)
        else:
            counted = counted & self.forced.complete(ids[:, :, self._written()])
        scores = (found.values / self.length**self.decoding.length_penalty).masked_fill(~counted, -torch.inf)
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
        return self.running / (self.state.limit if grows else self.length) ** self.decoding.length_penalty
