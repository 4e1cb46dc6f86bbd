"""Beam search: the best answers of all, as far as the beams can see."""

import torch

from flagai.generation.beam_group import BeamGroup
from flagai.generation.decoding_state import DecodingState
from flagai.generation.forced import ForcedWords
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, StepOutput, StopHook


class BeamSearch(Search):
    """Groups of beams; in each step, a group avoids the tokens that earlier groups have just chosen.

    Args:
        state: the prompts and answers.
        processors: from logits to scores.
        hook: ends spans; None for none.

    Source:
        Vijayakumar et al. 2018, "Diverse Beam Search for Improved Description of Complex Scenes", algorithm 1.
    """

    def __init__(self, state: DecodingState, processors: LogitsProcessorList, hook: StopHook | None) -> None:
        super().__init__(state, processors, hook)
        forced = ForcedWords(self.decoding.forced, state.device) if self.decoding.forced else None
        count = self.decoding.num_beam_groups
        self.groups = [BeamGroup(state, state.lanes // count, forced) for _ in range(count)]

    def choose(self, output: StepOutput) -> Choice:
        """See the base class."""
        _, scores = self.processors(output.logits)
        choices: list[Choice] = []
        first_beam = 0
        for group in self.groups:
            width = group.running.shape[1]
            own = scores[:, first_beam : first_beam + width]
            if choices:
                own = own - self._taken(scores, choices)
            choices.append(self._advance(group, own, first_beam))
            # At the first step there is one beam for all groups.
            first_beam += width if scores.shape[1] > 1 else 0
        self.done = torch.stack([group.done for group in self.groups]).all(0)
        return _joined(choices)

    def _taken(self, scores: torch.Tensor, choices: list[Choice]) -> torch.Tensor:
        """What tokens lose that earlier groups have chosen, [B, 1, V]."""
        lost = torch.zeros_like(scores[:, 0])
        for choice in choices:
            lost.scatter_add_(1, choice.tokens, torch.full_like(choice.tokens, 1, dtype=lost.dtype))
        return self.decoding.diversity_penalty * lost[:, None]

    def _advance(self, group: BeamGroup, scores: torch.Tensor, first_beam: int) -> Choice:
        found = group.expand(scores, first_beam)
        asked = (found.values > -torch.inf) & ~self.state.is_stop(found.tokens) & ~group.done[:, None]
        stops = self.stopped_by_hook(found.tokens, found.parents, asked)
        chosen = group.advance(found, stops)
        taken = found.take(chosen)
        return Choice(taken.tokens, taken.parents, stops.gather(1, chosen))

    def row_tensors(self) -> dict[str, torch.Tensor]:
        """See the base class; the groups have their own."""
        return {}

    def holders(self) -> list[tuple[object, tuple[str, ...]]]:
        """See the base class."""
        return [*super().holders(), *((group, (*group.PER_TEXT, "length")) for group in self.groups)]

    @property
    def recordable(self) -> bool:
        """See the base class; how words are forced depends on the number of the step."""
        return super().recordable and not self.decoding.forced

    def keep_rows(self, rows: torch.Tensor) -> None:
        """See the base class."""
        super().keep_rows(rows)
        for group in self.groups:
            group.keep_rows(rows)

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """See the base class."""
        first = int(self.state.protocol.starts)
        found = [
            Hypothesis(self.state.split_spans(group.ids[row, beam, first:kept].tolist()), score, stopped)
            for group in self.groups
            for beam, (score, kept, stopped) in enumerate(
                zip(group.score[row].tolist(), group.kept[row].tolist(), group.stopped[row].tolist(), strict=True)
            )
            if score > -torch.inf
        ]
        found.sort(key=lambda hypothesis: -hypothesis.score)
        nothing = self.hypothesis(row, self.groups[0].ids[row, 0, :0], -torch.inf, 0, False)
        return found[: self.decoding.num_return_sequences] or [nothing]

    def candidates(self, row: int) -> list[list[int]]:
        """See the base class."""
        first = int(self.state.protocol.starts)
        best = max(self.groups, key=lambda group: float(group.score[row, 0]))
        least = best.score[row, 0]
        answers = [] if least == -torch.inf else [best.ids[row, 0, first : int(best.kept[row, 0])].tolist()]
        running = torch.cat([group.running[row] for group in self.groups])
        bounds = torch.cat([group.bound()[row].masked_fill(group.done[row], -torch.inf) for group in self.groups])
        alive = (running > -torch.inf) & (bounds > least)
        written = self.state.generated()[row].tolist()
        return answers + [ids for ids, lives in zip(written, alive.tolist(), strict=True) if lives]


def _joined(choices: list[Choice]) -> Choice:
    """The beams of all groups side by side."""
    if len(choices) == 1:
        return choices[0]
    parents = [choice.parents for choice in choices if choice.parents is not None]
    stops = [choice.stops for choice in choices if choice.stops is not None]
    return Choice(torch.cat([choice.tokens for choice in choices], 1), torch.cat(parents, 1), torch.cat(stops, 1))
