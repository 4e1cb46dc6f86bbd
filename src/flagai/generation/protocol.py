"""Which protocol decodes prompts with a model, and how many tokens the model has positions for."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from flagai.data.prompt import Prompt
from flagai.errors import InputError
from flagai.families.family import DecodingProtocol, all_families, family_and_row
from flagai.model.block import BlockStack
from flagai.model.layer import KVCache


class GenerativeModel(Protocol):
    """What the engine needs of a model."""

    config: Any
    sharding: Any
    training: bool

    @property
    def backbone(self) -> Any:
        """The model below the head."""

    @property
    def max_positions(self) -> int | None:
        """How many tokens have a position; None if positions are relative."""

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache of keys and values with this capacity, in tokens."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The parameters."""

    def eval(self) -> Any:
        """The model itself, with dropout turned off."""

    def modules(self) -> Iterator[torch.nn.Module]:
        """The modules."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Score tokens: ``logits`` [B, S, V] and ``hidden_states`` [B, S, E]."""


def decoding_of(model: GenerativeModel, prompt: Prompt) -> DecodingProtocol:
    """How to decode a prompt with this model.

    Raises:
        InputError: the class of the model writes nothing, or has no blanks to fill.
    """
    family, row = family_and_row(model)
    if family is None or row is None or family.decoding is None or "write" not in row.methods:
        able = ", ".join(each.name for kind in all_families() for each in kind.classes if "write" in each.methods)
        raise InputError(f"A {type(model).__name__} cannot generate text; load one of {able}.")
    if not prompt.blanks:
        return family.decoding
    if family.span_decoding is None:
        raise InputError(f"Only GLM fills blanks; a {type(model).__name__} continues prompts without blanks.")
    return family.span_decoding


def prompt_for(model: GenerativeModel, prompt: Prompt) -> Prompt:
    """A prompt as the model reads it: behind the placeholders of a learned prefix, where it has one."""
    read: Callable[[Prompt], Prompt] | None = getattr(model, "prompt_for", None)
    return prompt if read is None else read(prompt)


def decoder_blocks(model: GenerativeModel) -> BlockStack:
    """The blocks of a model that keep keys and values."""
    return [module for module in model.modules() if isinstance(module, BlockStack)][-1]  # an encoder's come first


def state_size(model: GenerativeModel) -> int:
    """The size of a model's hidden states."""
    attention: Any = decoder_blocks(model)[0].attention
    return int(attention.q.in_features)


def remaining_positions(model: GenerativeModel, prompt: Prompt) -> int | None:
    """The largest ``max_new_tokens`` for which a model has positions; None if there is no limit.

    The last token is not fed, so an output of n tokens takes n - 1 positions after the prompt. In a blank, n + 2
    positions inside of the span are taken: 0 by the context, 1 by the start token.

    Args:
        model: the model.
        prompt: the text; 0 positions remain if it alone is too long.
    """
    rows = model.max_positions
    if rows is None:
        return None
    if len(prompt.ids) > rows:
        return 0
    return rows - 2 if prompt.blanks else rows - len(prompt.ids) + 1
