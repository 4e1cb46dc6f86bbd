"""Rows of different length to tensors, and the checks that all families share."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from flagai.data.tokenizer import Encoding, Tokenizer
from flagai.errors import InputError

Batch = dict[str, torch.Tensor]
_Token = TypeVar("_Token")


def padded(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> torch.Tensor:
    """Pad B rows on the right with a value, to the longest row or a ``width``.

    Shape:
        -> [B, width]

    Raises:
        InputError: there is no row, or one is wider than ``width``.
    """
    if not rows:
        raise InputError("A batch needs at least one row.")
    longest = max(len(row) for row in rows)
    width = longest if width is None else width
    if longest > width:
        raise InputError(f"A row has {longest} tokens, more than the {width} asked for.")
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def ones(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """1 at tokens and 0 at padding, [B, S]."""
    return padded([[1] * len(row) for row in rows], 0)


def kept(
    tokenizer: Tokenizer, rows: Sequence[Sequence[_Token]], max_length: int | None, specials: int
) -> list[list[_Token]]:
    """The tokens of one text or two that are read beside so many special ones; see :meth:`Tokenizer.cut`."""
    if max_length is None:
        return [list(row) for row in rows]
    return tokenizer.cut(rows, checked_limit(max_length - specials))


def kept_end(row: Sequence[int], max_length: int | None, specials: int) -> list[int]:
    """The last tokens of a text, where the end is what counts."""
    return list(row if max_length is None else row[-checked_limit(max_length - specials) :])


def checked_limit(limit: int) -> int:
    """The number of tokens that a text may have, if there is any room."""
    if limit < 1:
        raise InputError(
            "The maximal length leaves no room for text beside the special tokens. Raise it, or lower the answer's "
            "(max_new_tokens or out_max_length) if that takes the model's positions."
        )
    return limit


def checked_texts(texts: Sequence[object]) -> list[str]:
    """The texts, if all of them are; the message names the index of one that is not."""
    try:
        texts = list(texts)
    except TypeError as error:
        raise InputError(f"Expected a list of texts, but found {texts!r:.80}.") from error
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {index} is {type(text).__name__}; expected a text.")
    return [text for text in texts if isinstance(text, str)]


def checked_pairs(texts: Sequence[object]) -> list[tuple[str, ...]]:
    """For each entry one text or two; the message names the index of one that is neither."""
    pairs: list[tuple[str, ...]] = []
    for index, entry in enumerate(texts):
        if isinstance(entry, str):
            pairs.append((entry,))
        elif isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(text, str) for text in entry):
            pairs.append((entry[0], entry[1]))
        else:
            raise InputError(f"Text {index} is {type(entry).__name__}; expected a text or a pair of texts.")
    return pairs


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, of which equal ones are tokenized once."""
    different = list(dict.fromkeys(texts := checked_texts(texts)))
    found = dict(zip(different, tokenizer.encode_many(different), strict=True))
    return [found[text] for text in texts]


def encoded_pairs(tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]]) -> Iterator[list[Encoding]]:
    """The encodings of texts (one each) and pairs of texts (two each), all worked out in one call."""
    entries = checked_pairs(texts)
    encodings = iter(tokenizer.encode_batch([text for entry in entries for text in entry]))
    for entry in entries:
        yield [next(encodings) for _ in entry]
