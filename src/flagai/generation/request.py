"""A text to answer: what goes into the scheduler, and what comes out of it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from flagai.data.prompt import Prompt
from flagai.generation.options import Decoding
from flagai.generation.types import Hypothesis, LogitsProcessor, StopHook
from flagai.model.layer.adapted import chosen_adapter


@dataclass(eq=False)
class Request:
    """A prompt, how to answer it, and its answers.

    Args:
        prompt: the text as ids.
        decoding: how to decode, with ``seed`` and not ``seeds``, which are for calls with several texts.
        logits_processors: see :func:`flagai.generation.generate`.
        stop: see :func:`flagai.generation.generate`.
        number: what ``stop`` gets as the number of the row.
        stream: whether :meth:`Scheduler.step` reports it whenever it has new tokens.
        adapter: the adapter that reads and answers it; "base" for none. Default that of ``model.use_adapter``, in whose
            body this is made, or else the model's active one.
    """

    prompt: Prompt
    decoding: Decoding = field(default_factory=Decoding)
    logits_processors: Sequence[LogitsProcessor] = ()
    stop: StopHook | None = None
    number: int = 0
    stream: bool = False
    adapter: str | None = field(default_factory=chosen_adapter)
    seed: int = field(default=0, init=False)  # of its sampling; set when it is submitted
    # The answers, best first, once it is done; the ids that all answers that may still win begin with, before.
    hypotheses: tuple[Hypothesis, ...] = field(default=(), init=False)
    certain: tuple[tuple[int, ...], ...] = field(default=(), init=False)

    @property
    def done(self) -> bool:
        """Whether it has its answers."""
        return bool(self.hypotheses)

    @cached_property
    def lanes(self) -> int:
        """Tokens of a step: one for each answer or candidate, or an answer's last one and a draft."""
        return self.decoding.lanes + self.decoding.prompt_lookup_num_tokens

    @cached_property
    def own_lanes(self) -> int:
        """Lanes that have slots of their own: a draft's share those of the answer."""
        return self.decoding.lanes

    @cached_property
    def step_tokens(self) -> int:
        """The most tokens that an answer gains in a step."""
        return 1 + self.decoding.prompt_lookup_num_tokens

    @cached_property
    def num_slots(self) -> int:
        """The most slots that a lane needs for tokens to come."""
        return self.limit + 2 + self.decoding.prompt_lookup_num_tokens

    @cached_property
    def most_steps(self) -> int:
        """Steps after which it is done; contrastive search judges a token after it has been fed."""
        return self.limit + int(self.decoding.penalty_alpha is not None)

    @cached_property
    def limit(self) -> int:
        """The most tokens of an answer; a blank that is not the last also takes one that closes it."""
        return max(len(self.prompt.blanks), 1) * (self.decoding.max_new_tokens + 1) - 1


@dataclass(eq=False)
class Running:
    """A request that has been admitted.

    Args:
        request: the request.
        text_slots: the slots of its prompt's tokens; SCRATCH for padding.
        own_slots: the slots of the tokens to come, so far, for each lane, [lanes, n].
        blocks: all blocks that it has.
        hidden: the last hidden states of its prompt, for contrastive search.
    """

    request: Request
    text_slots: np.ndarray[Any, np.dtype[np.int64]]
    own_slots: np.ndarray[Any, np.dtype[np.int64]]
    blocks: list[int]
    hidden: torch.Tensor | None = None
    num_read: int = 0  # tokens of the prompt that the model has read
    steps: int = 0  # steps that have been made
    row: int = -1  # of its batch
    enough: int = field(default=0, init=False)  # steps for which it has slots

    def __post_init__(self) -> None:
        self.give(self.own_slots)

    @property
    def goes_on(self) -> bool:
        """Whether it may need a further step."""
        return self.steps < self.request.most_steps

    @property
    def needs_slots(self) -> bool:
        """Whether it has no slots for its next step."""
        return self.steps >= self.enough

    def give(self, own_slots: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Give it ``own_slots`` for tokens to come.

        Args:
            own_slots: all that it has, [lanes, n].
        """
        request, slots = self.request, own_slots.shape[1]
        self.own_slots = own_slots
        self.enough = sys.maxsize if slots >= request.num_slots else -((request.lanes - slots) // request.step_tokens)
