"""Rows of different length to tensors."""

from collections.abc import Iterator, Sequence

import torch

from flagai.data.tokenizer import Encoding, Tokenizer
from flagai.data.tokenizer.formats import kept_lengths
from flagai.errors import InputError

Batch = dict[str, torch.Tensor]


def padded(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> torch.Tensor:
    """Pad rows on the right.

    Args:
        rows: numbers, B rows.
        value: what stands at padding.
        width: the width of the result; default that of the longest row.

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


def shortened(first: Sequence[int], second: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Cut two rows to ``room`` tokens together, always from the end of the longer one (of the second if equal).

    Args:
        first: the first row.
        second: the second one, perhaps empty.
        room: how many tokens may remain.

    Raises:
        InputError: there is no room at all.
    """
    checked_room(room)
    own, other = kept_lengths([len(first), len(second)], room)
    return list(first[:own]), list(second[:other])


def last(row: Sequence[int], room: int) -> list[int]:
    """The last ``room`` tokens of a row.

    Raises:
        InputError: there is no room at all.
    """
    checked_room(room)
    return list(row[-room:])


def checked_room(room: int) -> int:
    """The number of tokens that a text may have.

    Raises:
        InputError: there is no room at all.
    """
    if room < 1:
        raise InputError(
            "The maximal length leaves no room for text beside the special tokens. Raise it, or lower the answer's "
            "(out_max_length) if that takes the model's positions."
        )
    return room


def checked_pairs(texts: Sequence[object]) -> list[tuple[str, str | None]]:
    """Read texts and pairs of texts.

    Args:
        texts: each a text, or a list or tuple of two.

    Raises:
        InputError: an entry is neither; the message has its index.
    """
    pairs: list[tuple[str, str | None]] = []
    for index, entry in enumerate(texts):
        if isinstance(entry, str):
            pairs.append((entry, None))
        elif isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(text, str) for text in entry):
            pairs.append((entry[0], entry[1]))
        else:
            raise InputError(f"Text {index} is {type(entry).__name__}; expected a text or a pair of texts.")
    return pairs


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """The encodings of texts, of which equal ones are tokenized once.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.

    Raises:
        InputError: an entry is no text; the message has its index.
    """
    different = list(dict.fromkeys(checked_texts(texts)))
    found = dict(zip(different, tokenizer.encode_batch(different), strict=True))
    return [found[text] for text in texts]


def encoded_pairs(
    tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]]
) -> Iterator[tuple[Encoding, Encoding | None]]:
    """The encodings of texts and pairs of texts, all worked out in one call.

    Args:
        tokenizer: the tokenizer.
        texts: each a text or a pair.

    Raises:
        InputError: an entry is neither; the message has its index.
    """
    pairs = checked_pairs(texts)
    encodings = iter(tokenizer.encode_batch([text for pair in pairs for text in pair if text is not None]))
    for _, second in pairs:
        yield next(encodings), None if second is None else next(encodings)


def checked_texts(texts: Sequence[object]) -> list[str]:
    """The texts, if all of them are.

    Raises:
        InputError: one is not; the message has its index.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {index} is {type(text).__name__}; expected a text.")
    return [text for text in texts if isinstance(text, str)]
