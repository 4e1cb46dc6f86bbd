"""What all searches have: a choice at each step, and hypotheses in the end."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import ClassVar

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.types import Choice, Hypothesis, StepOutput, StopHook
from flagai.model.layer.operation import operation


class Search(ABC):
    """A way of searching.

    Args:
        state: the prompts and answers.
        processors: from logits to scores.
        hook: ends spans; None for none.
    """

    latency_steps: ClassVar[int] = 0  # how many steps later than others it knows its answers
    # Asking whether a text is finished makes a GPU wait for the host, so it is asked once in so many steps. The steps
    # in vain at the end cost less than a question at every step. On a CPU the answer is there already.
    done_check_interval: ClassVar[int] = 8

    def __init__(self, state: DecodingState, processors: LogitsProcessorList, hook: StopHook | None) -> None:
        self.state = state
        self.processors = processors
        self.hook = hook
        self.decoding = state.decoding
        self.done = torch.zeros(len(state.ids), dtype=torch.bool, device=state.device)

    @abstractmethod
    def choose(self, output: StepOutput) -> Choice:
        """Choose the next tokens, and note in ``done`` which texts are finished."""

    @abstractmethod
    def row_tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of the search that has one entry per text, by the name of its attribute."""

    @abstractmethod
    def hypotheses(self, row: int) -> list[Hypothesis]:
        """The answers to a text of the batch that is done, best first."""

    @abstractmethod
    def candidates(self, row: int) -> list[list[int]]:
        """The ids, separators of spans included, of all answers that may still become the best one."""

    @property
    def recordable(self) -> bool:
        """Whether a choice is work of the device alone, and the same at every step."""
        return self.hook is None and not self.processors.added

    def holders(self) -> list[tuple[object, tuple[str, ...]]]:
        """Everything that :func:`search_step` changes: objects, and the names of their tensors."""
        beams = self.state.beams
        return [
            (beams, tuple(entry.name for entry in fields(beams))),
            (self.state, self.state.counters),
            (self, (*self.row_tensors(), "done")),
        ]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these texts.

        Args:
            rows: indices, [new B].
        """
        self.state.keep_rows(rows)
        for name, tensor in {**self.row_tensors(), "done": self.done}.items():
            setattr(self, name, tensor.index_select(0, rows))

    def stopped_by_hook(self, tokens: torch.Tensor, parents: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
        """Where the hook ends a span.

        Args:
            tokens: new tokens, [B, K].
            parents: the beams that they continue, [B, K]; None if each continues its own.
            asked: which of them are worth a question, [B, K].

        Shape:
            -> [B, K]
        """
        ends = torch.zeros_like(asked)
        if self.hook is None:
            return ends
        past, news = self.state.generated().tolist(), tokens.tolist()
        beams = None if parents is None else parents.tolist()
        for row, column in asked.nonzero().tolist():
            before = past[row][column if beams is None else beams[row][column]]
            piece = self.state.split_spans([*before, news[row][column]])[-1]
            ends[row, column] = bool(self.hook(self.state.prompt_numbers[row], piece))
        return ends

    def hypothesis(self, row: int, ids: torch.Tensor, score: float, length: int, finished: bool) -> Hypothesis:
        """Make an answer of ids, separators of spans included."""
        pieces = self.state.split_spans(ids.tolist())
        missing = int(self.state.last_blank[row]) + 1 - len(pieces)
        return Hypothesis((*pieces, *[()] * missing), score / max(length, 1) ** self.decoding.length_penalty, finished)


@operation
def search_step(search: Search, output: StepOutput) -> None:
    """Choose the next tokens and append them to the answers.

    Args:
        search: the search.
        output: of the forward pass over the last tokens.
    """
    search.state.append(search.choose(output))
