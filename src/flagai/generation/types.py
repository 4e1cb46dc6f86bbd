"""What goes into the engine and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

# (ids [B, W, T], scores [B, W, V]) -> scores. The ids of a lane stand at the right end, the newest last; -1 fills
# the left where a text is shorter. Scores are log-probabilities; -inf forbids a token.
LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# (row, ids of the piece so far) -> whether the piece ends here, the last id included.
StopHook = Callable[[int, tuple[int, ...]], bool]


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
