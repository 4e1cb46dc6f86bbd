"""Contrastive search: the likeliest candidate that does not repeat what the text says already.

Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.
"""

import torch
from torch.nn import functional as F

from flagai.generation.decoding_state import Scored, Tree
from flagai.generation.processors import Pipeline
from flagai.generation.search import Choice, Search
from flagai.generation.types import Hypothesis, StopHook


class ContrastiveSearch(Search):
    """Feeds the best ``top_k`` tokens as lanes, keeps the lane whose state is the least like those before.

    Args:
        tree: the texts; as many lanes as candidates.
        pipeline: from logits to scores.
        hook: ends pieces; None for none.
    """

    late = 1  # candidates are judged after they have been fed

    def __init__(self, tree: Tree, pipeline: Pipeline, hook: StopHook | None) -> None:
        super().__init__(tree, pipeline, hook)
        zero = torch.zeros(len(tree.ids), device=tree.device)
        self.score = zero
        self.kept = self.length = zero.long()
        self.stopped = zero.bool()
        self.last = zero.bool()[:, None]
        self.logs = zero[:, None]  # log-probabilities of the candidates, [B, W]
        self.tokens = zero.long()[:, None]
        self.context = zero[:, None, None]  # directions of all states so far, [B, C, D]
        self.filled = 0
        self.real = zero.bool()[:, None]  # which of them are there, [B, C]

    def state(self) -> dict[str, torch.Tensor]:
        """See the base class."""
        names = ("score", "kept", "length", "stopped", "last", "logs", "tokens", "context", "real")
        return {name: getattr(self, name) for name in names}

    @property
    def recordable(self) -> bool:
        """See the base class; the states that candidates are compared with grow."""
        return False

    def choose(self, scored: Scored) -> Choice:
        """See the base class; first decides among the candidates that have just been fed."""
        logits = scored.logits
        directions = F.normalize(scored.hidden.float(), dim=-1)
        if not self.filled:
            self._begin(directions)
        else:
            logits = logits.gather(1, self._keep(directions)[..., None].expand(-1, -1, logits.shape[2]))
        _, scores = self.pipeline(logits)
        self.logs, self.tokens = scores.log_softmax(-1)[:, 0].topk(min(self.tree.width, scores.shape[2]))
        self.last = self.tree.in_last_blank()
        return Choice(self.tokens, torch.zeros_like(self.tokens))

    def _begin(self, directions: torch.Tensor) -> None:
        batch, count, width = directions.shape
        self.context = directions.new_zeros(batch, count + self.tree.limit + 1, width)
        self.context[:, :count] = directions
        self.real = torch.zeros(self.context.shape[:2], dtype=torch.bool, device=directions.device)
        self.real[:, :count] = self.tree.lanes.seen[:, 0, :count]
        self.filled = count

    def _keep(self, directions: torch.Tensor) -> torch.Tensor:
        """Choose among the candidates, and go on from the best one; its lane, [B, 1]."""
        alike = directions @ self.context[:, : self.filled].transpose(1, 2)
        alike = alike.masked_fill(~self.real[:, None, : self.filled], -1).amax(-1)
        alpha = self.decoding.penalty_alpha or 0.0
        worth = (1 - alpha) * self.logs.exp() - alpha * alike
        best = worth.masked_fill(self.logs == -torch.inf, -torch.inf).argmax(1, keepdim=True)
        self.context[:, self.filled] = directions.gather(1, best[..., None].expand(-1, -1, directions.shape[2]))[:, 0]
        self.real[:, self.filled] = True
        self.filled += 1
        self.tree.reorder(best)
        self._account(self.tokens.gather(1, best), self.logs.gather(1, best))
        return best

    def _account(self, token: torch.Tensor, log: torch.Tensor) -> None:
        """Note the score, and whether the answer ends with this token; both [B, 1]."""
        active = ~self.done[:, None]
        dead = log.isnan() | (log == -torch.inf)
        stops = self.last & self.tree.stops(token)
        closes = self._closes(active & ~dead & ~self.tree.stops(token))
        self.tree.lanes.closed = self.tree.lanes.closed | closes
        full = self.last & (self.tree.lanes.piece >= self.decoding.max_new_tokens)
        counted = active & ~dead
        self.score = self.score + log.masked_fill(~counted, 0)[:, 0]
        self.length = self.length + counted[:, 0]
        self.kept = self.kept + (counted & ~stops)[:, 0]
        self.stopped = self.stopped | (counted & (stops | (closes & self.last)))[:, 0]
        self.done = self.done | (dead | stops | full | (closes & self.last))[:, 0]

    def _closes(self, asked: torch.Tensor) -> torch.Tensor:
        """Where the hook ends the piece that a token has just been added to, [B, 1]."""
        if self.hook is None:
            return torch.zeros_like(asked)
        answers = [
            wanted and bool(self.hook(number, self.tree.pieces(ids[0])[-1]))
            for number, ids, (wanted,) in zip(
                self.tree.numbers, self.tree.written().tolist(), asked.tolist(), strict=True
            )
        ]
        return torch.tensor(answers, device=asked.device)[:, None]

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        ids = self.tree.written()[row, 0, : self.kept[row]]
        score, length, stopped = float(self.score[row]), int(self.length[row]), bool(self.stopped[row])
        return [self.hypothesis(row, ids, score, length, stopped)]

    def possible(self, row: int) -> list[list[int]]:
        """See the base class."""
        return [self.tree.written()[row, 0, : self.kept[row]].tolist()]
