"""What users pass to the Predictor, checked: texts, lengths, names of classes."""

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from flagai.checks import check_integer
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import family_and_row
from flagai.model.base_model import BaseModel

logger = logging.getLogger(__name__)


def check_parts(what: str, model: Any, tokenizer: Any) -> None:
    """Refuse a model and a tokenizer that are missing or in each other's place.

    Raises:
        InputError: they are not a model and its tokenizer.
    """
    right = f"{what}(model, tokenizer), as AutoLoader's get_model() and get_tokenizer() give them"
    if isinstance(model, Tokenizer) and isinstance(tokenizer, BaseModel):
        raise InputError(f"The model and the tokenizer are in each other's place. Write {right}.")
    if not isinstance(model, BaseModel):
        found = type(model).__name__
        raise InputError(f"The model is of type {found}; expected a model of flagai.model. Write {right}.")
    if tokenizer is None:
        raise InputError(f"The tokenizer is missing. Write {right}, or Tokenizer.from_pretrained(model_name).")
    if not isinstance(tokenizer, Tokenizer):
        found = type(tokenizer).__name__
        raise InputError(f"The tokenizer is of type {found}; expected a flagai Tokenizer. Write {right}.")
    # GLM's command tokens have rows; the other families' tokenizers know them without (see out_of_vocab_ids).
    family, _ = family_and_row(model)
    size, rows = tokenizer.rows_needed(commands=family is not None and family.command_rows), model.config.vocab_size
    if size > rows:
        raise InputError(
            f"{tokenizer!r} of {tokenizer.description.folder} has ids up to {size - 1}, but this "
            f"{type(model).__name__} has an embedding of {rows} rows (vocab_size): they are not of one "
            f"model. Write {right}."
        )


def as_list(text: Any) -> list[Any]:
    """One text or a list of texts, as a list.

    Raises:
        InputError: it is neither; sets and mappings have no order that answers could have too.
    """
    if isinstance(text, str):
        return [text]
    if isinstance(text, bytes | Mapping | Set) or not isinstance(text, Iterable):
        raise InputError(f"Expected a text or a list of texts, but found {type(text).__name__}.")
    try:
        return list(text)
    except TypeError as error:  # an array without dimensions
        raise InputError(f"Expected a text or a list of texts, but found {text!r:.80}.") from error


def is_pair(text: object) -> bool:
    """Whether this is a pair of texts."""
    return isinstance(text, list | tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)


@functools.cache
def tell_of_pairs() -> None:
    """Warn, once, that a list of two texts is one pair for FlagAI's ``predict_cls_classifier``."""
    logger.warning(
        "predict_cls_classifier([a, b]) takes the list as one pair of texts, as FlagAI does, and gives one class. "
        "Write [[a], [b]] for two texts; a tuple (a, b) is a pair without this warning."
    )


def read_length(name: str, value: Any, model: BaseModel) -> int | None:
    """How many tokens of a text are read: what the caller wants, but no more than the model has positions.

    Raises:
        InputError: it is not an integer of at least 1.
    """
    rows = model.max_positions
    if value is None:
        return rows
    return check_integer(name, value) if rows is None else min(check_integer(name, value), rows)


def out_of_vocab_ids(tokenizer: Tokenizer, model: BaseModel) -> list[int]:
    """The ids of command tokens that a model has no rows for.

    BERT's, GPT-2's and T5's tokenizers know GLM's command tokens, which can stand in a text like any other word.
    """
    rows = model.config.vocab_size
    return [number for number in tokenizer.command_ids if number >= rows]


def replace_unknown(ids: Sequence[int], tokenizer: Tokenizer, model: BaseModel) -> list[int]:
    """Ids of a text, with the unknown token for those of :func:`out_of_vocab_ids`."""
    strange = set(out_of_vocab_ids(tokenizer, model))
    if not strange or strange.isdisjoint(ids):
        return list(ids)
    unknown = tokenizer.get_command_id("unk")
    return [unknown if number in strange else number for number in ids]


def label_names(labels: Sequence[str], classes: int | None) -> tuple[str, ...]:
    """The names of classes, which may be absent.

    Raises:
        InputError: they are no list of different texts, or not one per class.
    """
    right = isinstance(labels, list | tuple) and all(isinstance(label, str) and label for label in labels)
    if not right or len(set(labels)) < len(labels):
        raise InputError(f"labels is {labels!r:.80}; expected a list of different names, such as ['good', 'bad'].")
    if labels and classes is not None and len(labels) != classes:
        raise InputError(
            f"There are {len(labels)} labels, but the model knows {classes} classes: {list(labels)}. "
            "Name one per class, in the order of training."
        )
    return tuple(labels)
