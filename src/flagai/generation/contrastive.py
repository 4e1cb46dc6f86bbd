"""Contrastive search: the likeliest candidate that does not repeat what the text says already.

Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.
"""

import torch
from torch.nn import functional as F

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, StepOutput, StopHook


class ContrastiveSearch(Search):
    """Feeds the best ``top_k`` tokens as beams, keeps the beam whose state is the least like those before.

    Args:
        state: the prompts and answers; as many beams as candidates.
        processors: from logits to scores.
        hook: ends spans; None for none.
    """

    latency_steps = 1  # candidates are judged after they have been fed

    def __init__(self, state: DecodingState, processors: LogitsProcessorList, hook: StopHook | None) -> None:
        super().__init__(state, processors, hook)
        zero = torch.zeros(len(state.ids), device=state.device)
        self.score = zero
        self.kept = self.length = zero.long()
        self.stopped = zero.bool()
        self.last = zero.bool()[:, None]
        self.logs = zero[:, None]  # log-probabilities of the candidates, [B, W]
        self.tokens = zero.long()[:, None]
        self.context = zero[:, None, None]  # directions of all states so far, [B, C, D]
        self.filled = 0
        self.real = zero.bool()[:, None]  # which of them are there, [B, C]

    def row_tensors(self) -> dict[str, torch.Tensor]:
        """See the base class."""
        names = ("score", "kept", "length", "stopped", "last", "logs", "tokens", "context", "real")
        return {name: getattr(self, name) for name in names}

    @property
    def recordable(self) -> bool:
        """See the base class; the states that candidates are compared with grow."""
        return False

    def choose(self, output: StepOutput) -> Choice:
        """See the base class; first decides among the candidates that have just been fed."""
        logits = output.logits
        directions = F.normalize(output.hidden.float(), dim=-1)
        if not self.filled:
            self._begin(directions)
        else:
            logits = logits.gather(1, self._keep(directions)[..., None].expand(-1, -1, logits.shape[2]))
        _, scores = self.processors(logits)
        self.logs, self.tokens = scores.log_softmax(-1)[:, 0].topk(min(self.state.lanes, scores.shape[2]))
        self.last = self.state.in_last_blank()
        return Choice(self.tokens, torch.zeros_like(self.tokens))

    def _begin(self, directions: torch.Tensor) -> None:
        batch, count, width = directions.shape
        self.context = directions.new_zeros(batch, count + self.state.limit + 1, width)
        self.context[:, :count] = directions
        self.real = torch.zeros(self.context.shape[:2], dtype=torch.bool, device=directions.device)
        self.real[:, :count] = self.state.beams.ancestors[:, 0, :count]
        self.filled = count

    def _keep(self, directions: torch.Tensor) -> torch.Tensor:
        """Choose among the candidates, and go on from the best one; its beam, [B, 1]."""
        alike = directions @ self.context[:, : self.filled].transpose(1, 2)
        alike = alike.masked_fill(~self.real[:, None, : self.filled], -1).amax(-1)
        alpha = self.decoding.penalty_alpha or 0.0
        worth = (1 - alpha) * self.logs.exp() - alpha * alike
        best = worth.masked_fill(self.logs == -torch.inf, -torch.inf).argmax(1, keepdim=True)
        self.context[:, self.filled] = directions.gather(1, best[..., None].expand(-1, -1, directions.shape[2]))[:, 0]
        self.real[:, self.filled] = True
        self.filled += 1
        self.state.reorder_beams(best)
        self._account(self.tokens.gather(1, best), self.logs.gather(1, best))
        return best

    def _account(self, token: torch.Tensor, log: torch.Tensor) -> None:
        """Note the score, and whether the answer ends with this token; both [B, 1]."""
        active = ~self.done[:, None]
        dead = log.isnan() | (log == -torch.inf)
        stops = self.last & self.state.is_stop(token)
        hook_stops = self._hook_stops(active & ~dead & ~self.state.is_stop(token))
        self.state.beams.stopped = self.state.beams.stopped | hook_stops
        full = self.last & (self.state.beams.span_length >= self.decoding.max_new_tokens)
        counted = active & ~dead
        self.score = self.score + log.masked_fill(~counted, 0)[:, 0]
        self.length = self.length + counted[:, 0]
        self.kept = self.kept + (counted & ~stops)[:, 0]
        self.stopped = self.stopped | (counted & (stops | (hook_stops & self.last)))[:, 0]
        self.done = self.done | (dead | stops | full | (hook_stops & self.last))[:, 0]

    def _hook_stops(self, asked: torch.Tensor) -> torch.Tensor:
        """Where the hook ends the piece that a token has just been added to, [B, 1]."""
        if self.hook is None:
            return torch.zeros_like(asked)
        answers = [
            wanted and bool(self.hook(number, self.state.split_spans(ids[0])[-1]))
            for number, ids, (wanted,) in zip(
                self.state.prompt_numbers, self.state.generated().tolist(), asked.tolist(), strict=True
            )
        ]
        return torch.tensor(answers, device=asked.device)[:, None]

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        ids = self.state.generated()[row, 0, : self.kept[row]]
        score, length, stopped = float(self.score[row]), int(self.length[row]), bool(self.stopped[row])
        return [self.hypothesis(row, ids, score, length, stopped)]

    def candidates(self, row: int) -> list[list[int]]:
        """See the base class."""
        return [self.state.generated()[row, 0, : self.kept[row]].tolist()]
