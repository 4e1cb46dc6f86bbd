"""Beam search: the best answers of all, as far as the beams can see.

Source: the rules of keeping and ending are those of transformers 5, so that results agree.
"""

import torch

from flagai.generation.processors import Pipeline
from flagai.generation.search import Choice, Search
from flagai.generation.tree import Scored, Tree
from flagai.generation.types import Hypothesis, StopHook


class BeamSearch(Search):
    """Keeps the best unfinished answers of each text, and the best finished ones.

    Args:
        tree: the texts.
        pipeline: from logits to scores.
        hook: ends pieces; None for none.
    """

    def __init__(self, tree: Tree, pipeline: Pipeline, hook: StopHook | None) -> None:
        super().__init__(tree, pipeline, hook)
        batch, width = len(tree.ids), tree.width
        self.running = torch.zeros(batch, 1, device=tree.device)
        self.score = torch.full((batch, width), -torch.inf, device=tree.device)
        self.ids = torch.zeros(batch, width, tree.limit + 2, dtype=torch.long, device=tree.device)
        self.kept = torch.zeros(batch, width, dtype=torch.long, device=tree.device)
        self.stopped = torch.zeros(batch, width, dtype=torch.bool, device=tree.device)
        self.length = 0  # of all running answers

    def state(self) -> dict[str, torch.Tensor]:
        """See the base class."""
        return {name: getattr(self, name) for name in ("running", "score", "ids", "kept", "stopped")}

    def choose(self, scored: Scored) -> Choice:
        """See the base class."""
        _, scores = self.pipeline(scored.logits)
        values, parents, tokens = self.candidates(self.running[:, :, None] + scores)
        self.length += 1
        stops = self.tree.stops(tokens)
        closes = self.hooked(tokens, parents, (values > -torch.inf) & ~stops & ~self.done[:, None])
        last = self.tree.in_last_blank().gather(1, parents)
        full = self.tree.lanes.piece.gather(1, parents) + 1 >= self.decoding.max_new_tokens
        ends = last & (stops | full | closes)
        self._finish(values, parents, tokens, ends, stops | closes)
        alive = values.masked_fill(ends, -torch.inf)
        self.running, chosen = alive.topk(min(self.tree.width, alive.shape[1]))
        self.done = self.done | self._hopeless()
        return Choice(*(tensor.gather(1, chosen) for tensor in (tokens, parents, closes)))

    def candidates(self, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best continuations of all lanes: so many that enough stay if all best ones end.

        Args:
            totals: scores of all continuations, [B, W, V].

        Returns:
            Their scores, lanes and tokens, best first, [B, K] each.
        """
        kinds = max(2, 1 + len(self.decoding.stop_ids))
        vocabulary = totals.shape[2]
        totals = totals.flatten(1)
        values, index = totals.topk(min(kinds * self.tree.width, totals.shape[1]))
        return values, index // vocabulary, index % vocabulary

    def _finish(
        self,
        values: torch.Tensor,
        parents: torch.Tensor,
        tokens: torch.Tensor,
        ends: torch.Tensor,
        stopped: torch.Tensor,
    ) -> None:
        """Put ended candidates among the finished answers; only the best ``width`` may end, as in transformers."""
        width, count = self.tree.width, self.tree.count
        values, parents, tokens, ends, stopped = (
            tensor[:, :width] for tensor in (values, parents, tokens, ends, stopped)
        )
        counted = ends & ~self.done[:, None]
        scores = (values / self.length**self.decoding.length_penalty).masked_fill(~counted, -torch.inf)
        fed = self.tree.lanes.fed
        ids = fed.gather(1, parents[..., None].expand(-1, -1, fed.shape[2]))
        ids[:, :, count] = tokens
        self.score, best = torch.cat([self.score, scores], dim=1).topk(width)
        kept = (count + ~self.tree.stops(tokens)).long()
        self.ids = torch.cat([self.ids, ids], dim=1).gather(1, best[..., None].expand(-1, -1, ids.shape[2]))
        self.kept = torch.cat([self.kept, kept], dim=1).gather(1, best)
        self.stopped = torch.cat([self.stopped, stopped], dim=1).gather(1, best)

    def _hopeless(self) -> torch.Tensor:
        """Where no unfinished answer can matter any more, [B]."""
        early = self.decoding.early_stopping
        # "never" is exact, so it suffices that those which are returned are safe.
        needed = self.decoding.n_best if early == "never" else self.tree.width
        worst = self.score[:, needed - 1]
        enough = worst > -torch.inf
        over = self.running[:, 0] == -torch.inf
        return over | (enough if early is True else enough & (self._bound()[:, 0] <= worst))

    def _bound(self) -> torch.Tensor:
        """The best scores that unfinished answers may reach, [B, W]."""
        grows = self.decoding.early_stopping == "never" and self.decoding.length_penalty > 0
        return self.running / (self.tree.limit if grows else self.length) ** self.decoding.length_penalty

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        first = int(self.tree.family.starts)
        entries = zip(self.score[row].tolist(), self.kept[row].tolist(), self.stopped[row].tolist(), strict=True)
        found = [
            Hypothesis(self.tree.pieces(self.ids[row, lane, first:kept].tolist()), score, stopped)
            for lane, (score, kept, stopped) in enumerate(entries)
            if score > -torch.inf
        ]
        nothing = self.hypothesis(row, self.ids[row, 0, :0], -torch.inf, 0, False)
        return found[: self.decoding.n_best] or [nothing]

    def possible(self, row: int) -> list[list[int]]:
        """See the base class."""
        first = int(self.tree.family.starts)
        finished = (
            [self.ids[row, 0, first : int(self.kept[row, 0])].tolist()] if self.score[row, 0] > -torch.inf else []
        )
        if self.done[row]:
            return finished
        alive = (self.running[row] > -torch.inf) & (self._bound()[row] > self.score[row, 0])
        return finished + [
            ids for ids, lives in zip(self.tree.written()[row].tolist(), alive.tolist(), strict=True) if lives
        ]
