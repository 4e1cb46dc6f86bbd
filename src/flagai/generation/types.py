"""What goes into the engine, through it and comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

# (ids [B, W, T], scores [B, W, V]) -> scores. The ids of a beam end with its last token; -1 fills the left where a text
# is shorter. Scores are log-probabilities; -inf forbids a token.
LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# The ids of each blank; one piece for a plain continuation.
Spans = tuple[tuple[int, ...], ...]

# (row, ids of the piece so far) -> whether the piece ends here, the last id included.
StopHook = Callable[[int, tuple[int, ...]], bool]


@dataclass
class StepOutput:
    """A forward pass over the last tokens.

    Args:
        logits: of the tokens that may follow, [B, W, V].
        hidden: the model's last states, [B, W, D]; after the prefill, those of the prompt in front, [B, P + 1, D].
    """

    logits: torch.Tensor
    hidden: torch.Tensor


@dataclass
class Choice:
    """The tokens that a search appends in one step.

    Args:
        tokens: [B, W]
        parents: the beams that they continue, [B, W]; None if each continues its own.
        stops: where a stop hook ends the span after this token, [B, W]; None for nowhere.
    """

    tokens: torch.Tensor
    parents: torch.Tensor | None = None
    stops: torch.Tensor | None = None


@dataclass(frozen=True)
class Hypothesis:
    """One answer.

    Args:
        pieces: the ids of each blank; one piece for a plain continuation. Stop ids are not among them.
        score: sum of the log-probabilities, the stop id's included, divided by ``length ** length_penalty``.
        finished: whether the answer ended by itself, and not because ``max_new_tokens`` was reached.
    """

    pieces: tuple[tuple[int, ...], ...]
    score: float
    finished: bool

    @property
    def ids(self) -> tuple[int, ...]:
        """All pieces joined."""
        return tuple(token for piece in self.pieces for token in piece)


@dataclass(frozen=True)
class Event:
    """News of one text while it is being written.

    Args:
        row: number of the prompt.
        piece: number of the piece to which the ids belong.
        ids: ids that are now certain to be in the best answer.
        hypotheses: the finished answers, in a row's last event; () before.
    """

    row: int
    piece: int = 0
    ids: tuple[int, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = field(default=())
