"""What every way of searching answers has: a choice at each step, and answers in the end."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch

from flagai.generation.decoding_state import Scored, Tree
from flagai.generation.processors import Pipeline
from flagai.generation.types import Hypothesis, StopHook


@dataclass
class Choice:
    """The tokens that grow the tree by one step.

    Args:
        tokens: [B, W]
        parents: the lanes that they continue, [B, W]; None if each continues its own.
        closes: where a hook ends the piece after this token, [B, W]; None for nowhere.
    """

    tokens: torch.Tensor
    parents: torch.Tensor | None = None
    closes: torch.Tensor | None = None


class Search(ABC):
    """A way of searching.

    Args:
        tree: the texts.
        pipeline: from logits to scores.
        hook: ends pieces; None for none.
    """

    late: ClassVar[int] = 0  # how many steps later than others it knows its answers
    # Asking whether a text is finished makes a GPU wait for the host, so it is asked once in so many steps. The steps
    # in vain at the end cost less than a question at every step. On a CPU the answer is there already.
    patience: ClassVar[int] = 8

    def __init__(self, tree: Tree, pipeline: Pipeline, hook: StopHook | None) -> None:
        self.tree = tree
        self.pipeline = pipeline
        self.hook = hook
        self.decoding = tree.decoding
        self.done = torch.zeros(len(tree.ids), dtype=torch.bool, device=tree.device)

    @abstractmethod
    def choose(self, scored: Scored) -> Choice:
        """Choose the next tokens, and note in ``done`` which texts are finished."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the search that has one entry per text, by the name of its attribute."""

    @abstractmethod
    def hypotheses(self, row: int) -> list[Hypothesis]:
        """The answers to a text of the batch that is done, best first."""

    @abstractmethod
    def possible(self, row: int) -> list[list[int]]:
        """The ids, separators of pieces included, of all answers that may still become the best one."""

    @property
    def recordable(self) -> bool:
        """Whether a choice is work of the device alone, and the same at every step."""
        return self.hook is None and not self.pipeline.added

    def grow(self, scored: Scored) -> None:
        """Choose the next tokens and put them into the tree."""
        choice = self.choose(scored)
        if choice.parents is not None:
            self.tree.reorder(choice.parents)
        self.tree.append(choice.tokens, choice.closes)

    def holders(self) -> list[tuple[object, tuple[str, ...]]]:
        """Everything that :meth:`grow` changes: objects, and the names of their tensors."""
        lanes = self.tree.lanes
        return [
            (lanes, tuple(entry.name for entry in fields(lanes))),
            (self.tree, self.tree.moving),
            (self, (*self.state(), "done")),
        ]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these texts.

        Args:
            rows: indices, [new B].
        """
        self.tree.select(rows)
        for name, tensor in {**self.state(), "done": self.done}.items():
            setattr(self, name, tensor.index_select(0, rows))

    def hooked(self, tokens: torch.Tensor, parents: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
        """Where the hook ends a piece.

        Args:
            tokens: new tokens, [B, K].
            parents: the lanes that they continue, [B, K]; None if each continues its own.
            asked: which of them are worth a question, [B, K].

        Shape:
            -> [B, K]
        """
        ends = torch.zeros_like(asked)
        if self.hook is None:
            return ends
        past, news = self.tree.written().tolist(), tokens.tolist()
        lanes = None if parents is None else parents.tolist()
        for row, column in asked.nonzero().tolist():
            before = past[row][column if lanes is None else lanes[row][column]]
            piece = self.tree.pieces([*before, news[row][column]])[-1]
            ends[row, column] = bool(self.hook(self.tree.numbers[row], piece))
        return ends

    def hypothesis(self, row: int, ids: torch.Tensor, score: float, length: int, finished: bool) -> Hypothesis:
        """Make an answer of ids, separators of pieces included."""
        pieces = self.tree.pieces(ids.tolist())
        missing = int(self.tree.last_blank[row]) + 1 - len(pieces)
        return Hypothesis((*pieces, *[()] * missing), score / max(length, 1) ** self.decoding.length_penalty, finished)
