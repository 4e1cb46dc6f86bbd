"""Beam search: the best answers of all, as far as the beams can see."""

from collections.abc import Sequence
from typing import Self

import torch

from flagai.generation.beam_group import BeamGroup, Candidates
from flagai.generation.decoding_state import DecodingState
from flagai.generation.forced import ForcedWords
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes
from flagai.generation.search import Search
from flagai.generation.types import Choice, Hypothesis, StepOutput


class BeamSearch(Search):
    """Groups of beams; in each step, a group avoids the tokens that earlier groups have just chosen.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        processors: from logits to scores.

    Source:
        Vijayakumar et al. 2018, "Diverse Beam Search for Improved Description of Complex Scenes", algorithm 1.
    """

    def __init__(self, sizes: Sizes, state: DecodingState, processors: LogitsProcessorList) -> None:
        super().__init__(sizes, state, processors)
        forced = ForcedWords(self.decoding.forced, state.device) if self.decoding.forced else None
        count = self.decoding.num_beam_groups
        self.groups = [BeamGroup(sizes, state, sizes.lanes // count, forced) for _ in range(count)]

    def parts(self) -> list[RowTensors]:
        """All owners of the batch's tensors: the groups of beams, too."""
        return [*super().parts(), *self.groups]

    def fill(self, running: Sequence[Running]) -> None:
        """Put the values of requests into the rows of all groups."""
        super().fill(running)
        for group in self.groups:
            group.fill(running)

    def of_rows(self, rows: Sequence[int], names: Sequence[str]) -> Self:
        """A copy of some rows on the host, for their answers."""
        found, index = super().of_rows(rows, names), self.index(rows)
        found.groups = [group.on_host(index, group.reported) for group in self.groups]
        return found

    def twin(self) -> Self:
        """A copy with tensors of its own, whose groups follow."""
        found = super().twin()
        found.groups = [group.twin() for group in self.groups]
        for group in found.groups:
            group.state = found.state
        return found

    def choose(self, output: StepOutput) -> Choice:
        """Choose the best continuations of all beams of each row, and finish those that end."""
        if self.needs_best_only:
            (group,) = self.groups
            scores, tokens = self.processors.best(output.logits, group.num_candidates)
            choice = self._advance(group, group.expand(scores, 0, tokens))
            self.done = group.done
            return choice
        _, scores = self.processors(output.logits)
        choices: list[Choice] = []
        for number, group in enumerate(self.groups):
            first_beam = number * group.width
            own = scores[:, first_beam : first_beam + group.width]
            if choices:
                own = own - self._taken(scores, choices)
            choices.append(self._advance(group, group.expand(own, first_beam)))
        self.done = torch.stack([group.done for group in self.groups]).all(0)
        return _joined(choices)

    @property
    def needs_best_only(self) -> bool:
        """Whether the best scores of each beam decide, so that the others need not be computed."""
        plain = self.processors.only_bans and not self.state.protocol.spans
        return plain and len(self.groups) == 1 and not self.decoding.forced

    def _taken(self, scores: torch.Tensor, choices: list[Choice]) -> torch.Tensor:
        """What tokens lose that earlier groups have chosen, [B, 1, V]."""
        lost = torch.zeros_like(scores[:, 0])
        for choice in choices:
            lost.scatter_add_(1, choice.tokens, torch.full_like(choice.tokens, 1, dtype=lost.dtype))
        return self.decoding.diversity_penalty * lost[:, None]

    def _advance(self, group: BeamGroup, found: Candidates) -> Choice:
        asked = ~group.done[:, None].expand_as(found.tokens)
        if self.hooked:
            asked = asked & (found.values > -torch.inf) & ~self.state.is_stop(found.tokens)
        stops = self.stopped_by_hook(found.tokens, found.parents, asked)
        chosen = group.advance(found, stops)
        taken = found.take(chosen)
        return Choice(taken.tokens, taken.parents, stops.gather(1, chosen))

    @property
    def recordable(self) -> bool:
        """Whether a CUDA graph can replay the step: how words are forced depends on the number of the step."""
        return super().recordable and not self.decoding.forced

    def hypotheses(self, row: int) -> list[Hypothesis]:
        """The best answers of a row, finished ones first by score."""
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
        """The answers of a row that may still win."""
        first = int(self.state.protocol.starts)
        best = max(self.groups, key=lambda group: float(group.score[row, 0]))
        least = best.score[row, 0]
        answers = [] if least == -torch.inf else [best.ids[row, 0, first : int(best.kept[row, 0])].tolist()]
        running = torch.cat([group.running[row] for group in self.groups])
        bounds = torch.cat([group.bound()[row].masked_fill(group.done[row], -torch.inf) for group in self.groups])
        alive = (running > -torch.inf) & (bounds > least)
        count = int(self.state.num_generated()[row])
        written = self.state.generated()[row, :, :count].tolist()
        return answers + [ids for ids, lives in zip(written, alive.tolist(), strict=True) if lives]


def _joined(choices: list[Choice]) -> Choice:
    """The beams of all groups side by side."""
    if len(choices) == 1:
        return choices[0]
    parents = [choice.parents for choice in choices if choice.parents is not None]
    stops = [choice.stops for choice in choices if choice.stops is not None]
    return Choice(torch.cat([choice.tokens for choice in choices], 1), torch.cat(parents, 1), torch.cat(stops, 1))
