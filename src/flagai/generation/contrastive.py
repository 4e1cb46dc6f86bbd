"""Contrastive search: the likeliest candidate that does not repeat what the text says already.

Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch.nn import functional as F

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, StepOutput


class ContrastiveSearch(Search):
    """Feeds the best ``top_k`` tokens as lanes, keeps the lane whose state is the least like those before.

    Args:
        sizes: the sizes of the batch; as many lanes as candidates.
        state: the answers so far.
        processors: from logits to scores.
    """

    reported: ClassVar[tuple[str, ...]] = ("score", "kept", "length", "stopped")
    streamed = ("kept",)

    def __init__(self, sizes: Sizes, state: DecodingState, processors: LogitsProcessorList) -> None:
        super().__init__(sizes, state, processors)
        self.score = self.add("score", dtype=torch.float32)
        self.kept = self.add("kept")
        self.length = self.add("length")
        self.stopped = self.add("stopped", dtype=torch.bool)
        self.fed = self.add("fed", dtype=torch.bool)  # whether candidates have been fed
        self.last = self.add("last", sizes.lanes, dtype=torch.bool)
        self.logs = self.add("logs", sizes.lanes, dtype=torch.float32, fill=-torch.inf)
        self.tokens = self.add("tokens", sizes.lanes)
        self.filled = self.add("filled", 1)

    def allocate(self) -> None:
        """Make the tensors; the directions of all states so far are too large to be staged."""
        super().allocate()
        sizes = self.sizes
        self.context = torch.zeros(
            sizes.rows, sizes.text + sizes.steps, self.state.rules.hidden_size, device=self.device
        )

    def start(self, rows: Sequence[int], running: Sequence[Running]) -> None:
        """Begin with requests whose prompts have been read."""
        super().start(rows, running)
        for row, each in zip(rows, running, strict=True):
            if each.hidden is not None:
                self.context[row, : len(each.hidden)] = F.normalize(each.hidden.float(), dim=-1)

    def fill(self, running: Sequence[Running]) -> None:
        """Put requests into their rows."""
        super().fill(running)
        self.put(filled=[0 if each.hidden is None else len(each.hidden) for each in running])

    def take(self, other: RowTensors, rows: torch.Tensor) -> None:
        """Copy rows of another search."""
        super().take(other, rows)
        before = cast(ContrastiveSearch, other).context.index_select(0, rows)
        self.context[: len(before), : before.shape[1]] = before

    @property
    def recordable(self) -> bool:
        """Whether a CUDA graph can replay the step: no, the states that candidates are compared with grow."""
        return False

    def choose(self, output: StepOutput) -> Choice:
        """Decide among the candidates that have just been fed, then propose the next ones."""
        best = self._keep(F.normalize(output.hidden.float(), dim=-1))
        logits = output.logits.gather(1, best[..., None].expand(-1, -1, output.logits.shape[2]))
        state, lanes = self.state, self.sizes.lanes
        _, scores = self.processors(logits)
        logs, tokens = scores.log_softmax(-1)[:, 0].topk(min(lanes, scores.shape[2]))
        missing = lanes - logs.shape[1]  # few tokens
        self.logs, self.tokens = F.pad(logs, (0, missing), value=-torch.inf), F.pad(tokens, (0, missing))
        self.last = state.in_last_blank()
        self.fed = torch.ones_like(self.fed)
        return Choice(self.tokens)

    def _keep(self, directions: torch.Tensor) -> torch.Tensor:
        """Choose among the candidates, and let all lanes go on from the best one; its lane, [R, 1]."""
        real = torch.arange(self.context.shape[1], device=self.device) < self.filled
        alike = (directions @ self.context.transpose(1, 2)).masked_fill(~real[:, None], -1).amax(-1)
        alpha = self.decoding.penalty_alpha or 0.0
        worth = (1 - alpha) * self.logs.exp() - alpha * alike
        best = worth.masked_fill(self.logs == -torch.inf, -torch.inf).argmax(1, keepdim=True)
        best = best.masked_fill(~self.fed[:, None], 0)  # at the first step all lanes are alike
        kept = directions.gather(1, best[..., None].expand(-1, -1, directions.shape[2]))
        place = self.filled.clamp(max=self.context.shape[1] - 1)[..., None].expand_as(kept)
        self.context = self.context.scatter(1, place, kept)
        self.filled = self.filled + 1
        self.state.reorder_beams(best.expand(-1, self.sizes.lanes))
        self._account(self.tokens.gather(1, best), self.logs.gather(1, best))
        return best

    def _account(self, token: torch.Tensor, log: torch.Tensor) -> None:
        """Note the score, and whether the answer ends with this token; both [B, 1]."""
        active = (~self.done & self.fed)[:, None]
        dead = log.isnan() | (log == -torch.inf)
        last = self.last[:, :1]
        stops = last & self.state.is_stop(token)
        hook_stops = self.ask_hooks(active & ~dead & ~self.state.is_stop(token), self._written)
        self.state.stopped = self.state.stopped | hook_stops
        full = last & (self.state.span_length[:, :1] >= self.state.max_new_tokens[:, None])
        counted = active & ~dead
        self.score = self.score + log.masked_fill(~counted, 0)[:, 0]
        self.length = self.length + counted[:, 0]
        self.kept = self.kept + (counted & ~stops)[:, 0]
        self.stopped = self.stopped | (counted & (stops | (hook_stops & last)))[:, 0]
        self.done = self.done | (active & (dead | stops | full | (hook_stops & last)))[:, 0]

    def _written(self, row: int, _: int) -> list[int]:
        """A text's answer, with the token that is being judged."""
        found: list[int] = self.state.generated()[row, 0, : int(self.state.num_generated()[row])].tolist()
        return found

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """The answer of a row."""
        ids = self.state.generated()[row, 0, : self.kept[row]]
        score, length, stopped = float(self.score[row]), int(self.length[row]), bool(self.stopped[row])
        return [self.hypothesis(row, ids, score, length, stopped)]

    def candidates(self, row: int) -> list[list[int]]:
        """The answer of a row so far: it can only grow."""
        return [self.state.generated()[row, 0, : self.kept[row]].tolist()]
