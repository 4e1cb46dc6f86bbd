"""Whether a model can do what is asked of it; checked before its first step."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any, cast

import torch
from torch import nn

from flagai.checkpoint.out_of_memory import memory_advised
from flagai.data.prompt import Prompt
from flagai.errors import InputError
from flagai.families.family import DecodingProtocol
from flagai.generation.options import Decoding
from flagai.generation.protocol import GenerativeModel, remaining_positions
from flagai.generation.request import Request
from flagai.model.layer.adapted import check_adapter

# Bytes of the scores of one text in a step.
_MOST_SCORES = 2**32


def any_seed(model: GenerativeModel) -> int:
    """A seed by chance; ranks that share a model must sample the same."""
    seed = torch.randint(2**62, [1])
    return int(seed if model.sharding is None else model.sharding.broadcast(seed))


def start_id_of(model: GenerativeModel, protocol: DecodingProtocol, decoding: Decoding) -> int | None:
    """The token with which answers start; None if the prompt's last token predicts the first one.

    Raises:
        InputError: blanks need one, and the options name none.
    """
    if not protocol.starts:
        return None
    start = decoding.start_id
    if start is None and protocol.encoder:
        start = model.config.start_token
    if start is None:
        raise InputError("Blanks need start_id, the id of GLM's <|startofpiece|>.")
    return start


def check_types(requests: Iterable[Any]) -> None:
    """Refuse what are no requests, and fields of the wrong types.

    Raises:
        InputError: one is not a request, or its prompt or its decoding is something else.
    """
    for request in requests:
        if not isinstance(request, Request):
            raise InputError(f"Found {_named(request)}; expected a Request: Request(Prompt(ids), Decoding()).")
        name, prompt, decoding = f"Prompt {request.number}", request.prompt, request.decoding
        if not isinstance(prompt, Prompt):
            raise InputError(f"{name} is {_named(prompt)}; expected a Prompt: Prompt(ids), ids from the tokenizer.")
        if not isinstance(decoding, Decoding):
            raise InputError(f"{name} has {_named(decoding)} as decoding; expected Decoding(max_new_tokens=...).")
        if decoding.seeds is not None:
            raise InputError(f"{name} is one text, but its decoding has seeds. Give seed.")
        hooks = request.logits_processors
        if not isinstance(hooks, Sequence) or not all(map(callable, hooks)):
            raise InputError(f"{name} has {_named(hooks)} as logits_processors; expected a list of functions.")
        if request.stop is not None and not callable(request.stop):
            raise InputError(f"{name} has {_named(request.stop)} as stop; expected a function of row and ids.")
        for ids in (prompt.ids, prompt.blanks):
            odd = {kind for kind in set(map(type, ids)) if kind is bool or not issubclass(kind, Integral)}
            if odd:
                wrong = next(each for each in ids if type(each) in odd)
                raise InputError(f"{name} holds {_named(wrong)}; expected integers, ids from the tokenizer.")


def _named(value: Any) -> str:
    return f"{value!r:.60} ({type(value).__name__})"


def check_request(model: GenerativeModel, protocol: DecodingProtocol, request: Request) -> None:
    """Refuse what does not fit the model.

    Raises:
        InputError: an id is none of the model's, the prompt is empty, has a blank outside, or leaves no room, or there
            is no such adapter.
    """
    check_adapter(cast(nn.Module, model), request.adapter)
    decoding, prompt, name = request.decoding, request.prompt, f"Prompt {request.number}"
    if protocol.spans and not decoding.stop_token_ids:
        raise InputError("Blanks need stop_token_ids, such as the id of GLM's <|endofpiece|>.")
    start_id_of(model, protocol, decoding)
    named = {
        "stop_token_ids": decoding.stop_token_ids,
        "suppress_tokens": decoding.suppress_tokens,
        "bad_words_ids": [token for word in decoding.bad_words_ids for token in word],
        "force_words_ids": [token for word in decoding.forced for ids in word for token in ids],
        "start_id": [] if decoding.start_id is None else [decoding.start_id],
        name: prompt.ids,
    }
    for what, ids in named.items():
        _check_ids(model, what, ids)
    _check_scores(model, decoding)
    if not prompt.ids:
        raise InputError(f"{name} has no ids; give at least one token.")
    wrong = [place for place in prompt.blanks if not 0 <= place < len(prompt.ids)]
    if wrong:
        raise InputError(f"{name} has {len(prompt.ids)} ids, but a blank at {wrong[0]}.")
    _check_length(model, name, prompt, decoding.max_new_tokens)


def _check_ids(model: GenerativeModel, what: str, ids: Sequence[int]) -> None:
    vocabulary = model.config.vocab_size
    outside = [token for token in ids if not 0 <= token < vocabulary]
    if outside:
        raise InputError(
            f"{what} has the id {outside[0]}, but the model's tokens are 0..{vocabulary - 1}. "
            "Compare the tokenizer with the model."
        )


def _check_scores(model: GenerativeModel, decoding: Decoding) -> None:
    """Refuse answers of one text whose scores no memory holds."""
    lanes = decoding.lanes
    if lanes > 1 and lanes * model.config.vocab_size * 4 > _MOST_SCORES:
        raise InputError(
            f"{lanes} answers or candidates side by side are too many to score. "
            "Lower num_beams, num_return_sequences or top_k."
        )


def memory_advice(count: int, decoding: Decoding) -> AbstractContextManager[None]:
    """Where the body runs out of memory, raise an InputError that says what to lower.

    Args:
        count: number of texts.
        decoding: how their answers are written.
    """
    return memory_advised(
        lambda first: (
            f"Out of memory for {count} texts with {decoding.lanes} answers or candidates of "
            f"{decoding.max_new_tokens} tokens each ({first}). Lower max_new_tokens, num_beams or num_return_sequences."
        )
    )


def _check_length(model: GenerativeModel, name: str, prompt: Prompt, new: int) -> None:
    allowed = remaining_positions(model, prompt)
    if allowed is not None and new > allowed:
        raise InputError(
            f"{name} has {len(prompt.ids)} ids, and max_new_tokens is {new}, but the model has only "
            f"{model.max_positions} positions: there is room for {allowed} new ones. Shorten the text or "
            "max_new_tokens."
        )
