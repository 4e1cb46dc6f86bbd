"""Whether a model can do what is asked of it; checked before its first step."""

from collections.abc import Sequence
from typing import Any

from flagai.errors import InputError
from flagai.generation.family import Family, position_rows, room
from flagai.generation.options import Decoding
from flagai.generation.types import Prompt


def start_id_of(model: Any, family: Family, decoding: Decoding) -> int | None:
    """The token with which answers start; None if the prompt's last token predicts the first one.

    Raises:
        InputError: blanks need one, and the options name none.
    """
    if not family.starts:
        return None
    start = decoding.start_id
    if start is None and family.encoder:
        start = model.config.start_token
    if start is None:
        raise InputError("Blanks need start_id, the id of GLM's <|startofpiece|>.")
    return start


def check(model: Any, family: Family, prompts: Sequence[Prompt], decoding: Decoding) -> None:
    """Refuse what does not go with the model.

    Raises:
        InputError: an id is none of the model's, or a prompt is empty, has a blank outside, or leaves no room.
    """
    if family.spans and not decoding.stop_ids:
        raise InputError("Blanks need stop_ids, such as the id of GLM's <|endofpiece|>.")
    named = {
        "stop_ids": decoding.stop_ids,
        "banned_ids": decoding.banned_ids,
        "bad_words": [token for word in decoding.bad_words for token in word],
        "forced_words": [token for word in decoding.forced for ids in word for token in ids],
        "start_id": [] if decoding.start_id is None else [decoding.start_id],
    }
    for name, ids in named.items():
        _check_ids(model, name, ids)
    for number, prompt in enumerate(prompts):
        if not prompt.ids:
            raise InputError(f"Prompt {number} has no ids; give at least one token.")
        _check_ids(model, f"Prompt {number}", prompt.ids)
        wrong = [place for place in prompt.blanks if not 0 <= place < len(prompt.ids)]
        if wrong:
            raise InputError(f"Prompt {number} has {len(prompt.ids)} ids, but a blank at {wrong[0]}.")
        _check_room(model, number, prompt, decoding.max_new_tokens)


def _check_ids(model: Any, what: str, ids: Sequence[int]) -> None:
    vocabulary = model.config.vocab_size
    outside = [token for token in ids if not 0 <= token < vocabulary]
    if outside:
        raise InputError(
            f"{what} has the id {outside[0]}, but the model's tokens are 0..{vocabulary - 1}. "
            "Compare the tokenizer with the model."
        )


def _check_room(model: Any, number: int, prompt: Prompt, new: int) -> None:
    allowed = room(model, prompt)
    if allowed is not None and new > allowed:
        raise InputError(
            f"Prompt {number} has {len(prompt.ids)} ids, and max_new_tokens is {new}, but the model has only "
            f"{position_rows(model)} positions: there is room for {allowed} new ones. Shorten the text or "
            "max_new_tokens."
        )
