"""What all searches have: a choice at each step, and hypotheses in the end."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import PER_TEXT, LogitsProcessorList
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes, to_host
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import Choice, Hypothesis, StepOutput
from flagai.model.layer.operation import operation


class Search(RowTensors, ABC):
    """A way of searching, for the texts of a batch.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        processors: from logits to scores.
    """

    # The tensors of the search and of its state that answers are made of.
    reported: ClassVar[tuple[str, ...]] = ("tokens", "sequence", "text_length", "token_index", "last_blank")

    def __init__(self, sizes: Sizes, state: DecodingState, processors: LogitsProcessorList) -> None:
        super().__init__(sizes, state.device)
        self.state = state
        self.processors = processors
        self.decoding = state.decoding
        self.changed = True  # since the last step: texts have come or gone, or have new slots
        self.texts: list[Running | None] = [None] * sizes.rows
        self.done = self.add("done", dtype=torch.bool, fill=True)

    @abstractmethod
    def choose(self, output: StepOutput) -> Choice:
        """Choose the next tokens, and note in ``done`` which texts are finished."""

    @abstractmethod
    def hypotheses(self, row: int) -> list[Hypothesis]:
        """The answers to a text that is done, best first."""

    @abstractmethod
    def candidates(self, row: int) -> list[list[int]]:
        """The ids, separators of spans included, of all answers that may still become the best one."""

    @property
    def recordable(self) -> bool:
        """Whether a choice is work of the device alone, and the same at every step."""
        return not self.processors.added and not any(self._hooks())

    def _hooks(self) -> list[bool]:
        return [text is not None and text.request.stop is not None for text in self.texts]

    def parts(self) -> "list[RowTensors]":
        """All owners of the batch's tensors."""
        return [self, self.state]

    def start(self, rows: Sequence[int], running: Sequence[Running]) -> None:
        """Put texts into rows.

        Args:
            rows: their numbers.
            running: the texts, whose prompts have been read.
        """
        self.changed = True
        index = self.index(rows)
        for part in self.parts():
            part.clear(index)
        for row, each in zip(rows, running, strict=True):
            self.texts[row] = each
        self.state.start(index, running)
        for name in set(PER_TEXT) & set(self.state.names):
            self.state.put(index, **{name: [getattr(each.request.decoding, name) for each in running]})
        self.put(index, done=[False] * len(running))

    def leave(self, rows: Sequence[int]) -> None:
        """Take texts out; their rows go on as empty ones."""
        self.changed = True
        for row in rows:
            self.texts[row] = None
        index = self.index(rows)
        for part in self.parts():
            part.clear(index)

    def take_rows(self, other: Self, rows: Sequence[int]) -> None:
        """Take over some rows of a batch whose tensors are no larger, as the first ones."""
        self.changed = True
        index = self.index(rows)
        for mine, theirs in zip(self.parts(), other.parts(), strict=True):
            mine.take(theirs, index)
        self.texts[: len(rows)] = [other.texts[row] for row in rows]

    def on_host(self, rows: Sequence[int]) -> Self:
        """A copy of some rows on the CPU, from which answers can be read."""
        index = self.index(rows)
        found = copy.copy(self)
        found.state = copy.copy(self.state)
        found.texts = [self.texts[row] for row in rows]
        for mine, theirs in zip(found.parts(), self.parts(), strict=True):
            for name in mine.names:
                if name in self.reported:
                    setattr(mine, name, to_host(getattr(theirs, name).index_select(0, index)))
        return found

    def twin(self) -> Self:
        """A copy with tensors of its own."""
        found = copy.copy(self)
        found.state = copy.copy(self.state)
        for mine, theirs in zip(found.parts(), self.parts(), strict=True):
            for name in mine.names:
                setattr(mine, name, getattr(theirs, name).clone())
        return found

    def add_slots(self, running: Running, begin: int, slots: Sequence[Sequence[int]]) -> None:
        """Give a text slots; see :meth:`DecodingState.add_slots`."""
        row = self.index([self.texts.index(running)])
        self.state.add_slots(row, begin, [slots])
        self.changed = True

    def stopped_by_hook(self, tokens: torch.Tensor, parents: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
        """Where a stop hook ends a span.

        Args:
            tokens: new tokens, [R, K].
            parents: the lanes that they continue, [R, K]; None if each continues its own.
            asked: which of them are worth a question, [R, K].

        Shape:
            -> [R, K]
        """
        ends = torch.zeros_like(asked)
        if not any(self._hooks()):
            return ends
        hooked = torch.tensor(self._hooks(), device=asked.device)
        written, counts = self.state.generated(), self.state.num_generated().expand(-1, self.sizes.lanes).tolist()
        for row, column in (asked & hooked[:, None]).nonzero().tolist():
            lane = column if parents is None else int(parents[row, column])
            ids = [*written[row, lane, : counts[row][lane]].tolist(), int(tokens[row, column])]
            ends[row, column] = self._ends(row, ids)
        return ends

    def _ends(self, row: int, ids: Sequence[int]) -> bool:
        """Whether a text's hook ends the span with which these ids end."""
        text = self.texts[row]
        if text is None or text.request.stop is None:
            return False
        return bool(text.request.stop(text.request.number, self.state.split_spans(ids)[-1]))

    def hypothesis(self, row: int, ids: torch.Tensor, score: float, length: int, finished: bool) -> Hypothesis:
        """Make an answer of ids, separators of spans included."""
        pieces = self.state.split_spans(ids.tolist())
        missing = int(self.state.last_blank[row]) + 1 - len(pieces)
        return Hypothesis((*pieces, *[()] * missing), score / max(length, 1) ** self.decoding.length_penalty, finished)


@operation
def search_step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
    """Choose the next tokens and append them to the answers.

    Args:
        search: the search.
        output: of the forward pass over the last tokens.
        inputs: of the next forward pass, which get the new tokens.
    """
    search.state.append(search.choose(output))
    if inputs is not None:
        inputs.put(search.state.inputs())
