"""What all searches have: a choice at each step, and hypotheses in the end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self, cast

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import PER_TEXT, LogitsProcessorList
from flagai.generation.request import Running
from flagai.generation.rows import RowTensors, Sizes
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import Choice, Hypothesis, Spans, StepOutput
from flagai.model.layer.operation import operation


class Search(RowTensors, ABC):
    """A way of searching, for the texts of a batch.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        processors: from logits to scores.
    """

    # The tensors that answers are made of, and those that tell what is certain before.
    reported: ClassVar[tuple[str, ...]] = ()
    streamed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, sizes: Sizes, state: DecodingState, processors: LogitsProcessorList) -> None:
        super().__init__(sizes, state.device)
        self.state = state
        self.processors = processors
        self.decoding = state.decoding
        self.changed = True  # since the last step: texts have come or gone, or have new slots
        self.texts: list[Running | None] = [None] * sizes.rows
        self.present: list[Running] = []  # in the order of their rows
        self.hooked = False  # whether a hook ends spans
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

    def certain(self, before: Sequence[Spans]) -> list[Spans]:
        """What all answers to each text begin with that may still become the best one, split into spans.

        Args:
            before: what was certain of each row when it was last asked.
        """
        return [self.state.split_spans(_common(self.candidates(row))) for row in range(len(before))]

    @property
    def recordable(self) -> bool:
        """Whether a choice is work of the device alone, and the same at every step."""
        return not self.processors.added and not self.hooked

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
        for row, each in zip(rows, running, strict=True):
            self.texts[row] = each
            each.row = row
        self._count_texts()
        index, parts = self.index(rows), self.parts()
        for part in parts:
            part.stage(len(rows))
        self.fill(running)
        for part in parts:
            part.commit(index)

    def fill(self, running: Sequence[Running]) -> None:
        """Put the values of new texts into all parts."""
        self.state.fill(running)
        for name in set(PER_TEXT) & set(self.state.names):
            self.state.put(**{name: [getattr(each.request.decoding, name) for each in running]})
        self.put(done=[False] * len(running))

    def leave(self, rows: Sequence[int]) -> None:
        """Take texts out; their rows go on as empty ones."""
        self.changed = True
        for row in rows:
            self.texts[row] = None
        self._count_texts()
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
        for number, text in enumerate(self.texts[: len(rows)]):
            if text is not None:
                text.row = number
        self._count_texts()

    def _count_texts(self) -> None:
        self.present = [text for text in self.texts if text is not None]
        self.hooked = any(text.request.stop is not None for text in self.present)

    def of_rows(self, rows: Sequence[int], names: Sequence[str]) -> Self:
        """A copy of some rows on the CPU, from which answers can be read.

        Args:
            rows: their numbers.
            names: the tensors of the search that are wanted, ``reported`` or ``streamed``.
        """
        index = self.index(rows)
        found = self.on_host(index, names)
        found.state = self.state.on_host(index, self.state.reported)
        found.texts = [self.texts[row] for row in rows]
        return found

    def twin(self) -> Self:
        """A copy with tensors of its own."""
        found = super().twin()
        found.state = self.state.twin()
        return found

    def add_slots(self, texts: Sequence[tuple[Running, int]]) -> None:
        """Give texts slots; see :meth:`DecodingState.add_slots`."""
        self.state.add_slots(texts)
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

        def upto(row: int, column: int) -> list[int]:
            lane = column if parents is None else int(parents[row, column])
            count = int(self.state.num_generated().expand(-1, self.sizes.lanes)[row, lane])
            return [*self.state.generated()[row, lane, :count].tolist(), int(tokens[row, column])]

        return self.ask_hooks(asked, upto)

    def ask_hooks(
        self, asked: torch.Tensor, upto: Callable[[int, int], list[int]], *, in_order: bool = False
    ) -> torch.Tensor:
        """Where a stop hook ends a span.

        Args:
            asked: which tokens are worth a question, [R, K].
            upto: the ids of an answer up to a token, by its row and column.
            in_order: whether a row's tokens follow each other, so that none counts behind one that ends the span.

        Shape:
            -> [R, K]
        """
        ends = torch.zeros_like(asked)
        if self.hooked:
            stops = [text is not None and text.request.stop is not None for text in self.texts]
            hooked = torch.tensor(stops, device=asked.device)
            for row, column in (asked & hooked[:, None]).nonzero().tolist():
                request = cast(Running, self.texts[row]).request
                if request.stop is not None and not (in_order and bool(ends[row, :column].any())):
                    span = self.state.split_spans(upto(row, column))[-1]
                    ends[row, column] = bool(request.stop(request.number, span))
        return ends

    def hypothesis(self, row: int, ids: torch.Tensor, score: float, length: int, finished: bool) -> Hypothesis:
        """Make an answer of ids, separators of spans included."""
        pieces = self.state.split_spans(ids.tolist())
        missing = int(self.state.last_blank[row]) + 1 - len(pieces)
        return Hypothesis((*pieces, *[()] * missing), score / max(length, 1) ** self.decoding.length_penalty, finished)


def _common(answers: list[list[int]]) -> list[int]:
    """What all answers begin with."""
    if len(answers) == 1:
        return answers[0]
    count = 0
    for ids in zip(*answers, strict=False):
        if len(set(ids)) > 1:
            break
        count += 1
    return answers[0][:count] if answers else []


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
