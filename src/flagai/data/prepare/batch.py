"""Rows of different length to tensors."""

from collections.abc import Iterator, Sequence

import torch

from flagai.data.tokenizer import Encoding, Tokenizer
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


def shortened(tokenizer: Tokenizer, rows: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
    """Cut one row or two to ``limit`` tokens together; see :meth:`Tokenizer.cut`.

    Args:
        tokenizer: the tokenizer, which knows the side.
        rows: the rows.
        limit: how many tokens may remain.

    Raises:
        InputError: there is no room at all.
    """
    return tokenizer.cut(rows, checked_limit(limit))


def kept(tokenizer: Tokenizer, row: Sequence[int], max_length: int | None, specials: int) -> list[int]:
    """The tokens of a text that are read; see :meth:`Tokenizer.cut`.

    Args:
        tokenizer: the tokenizer, which knows the side.
        row: the tokens.
        max_length: how many there may be, special ones included; None for all.
        specials: how many special tokens there are beside them.

    Raises:
        InputError: there is no room at all.
    """
    return list(row) if max_length is None else shortened(tokenizer, [row], max_length - specials)[0]


def last(row: Sequence[int], limit: int) -> list[int]:
    """The last ``limit`` tokens of a row.

    Raises:
        InputError: there is no room at all.
    """
    checked_limit(limit)
    return list(row[-limit:])


def checked_limit(limit: int) -> int:
    """The number of tokens that a text may have.

    Raises:
        InputError: there is no room at all.
    """
    if limit < 1:
        raise InputError(
            "The maximal length leaves no room for text beside the special tokens. Raise it, or lower the answer's "
            "(max_new_tokens or out_max_length) if that takes the model's positions."
        )
    return limit


def checked_pairs(texts: Sequence[object]) -> list[tuple[str, ...]]:
    """Read texts and pairs of texts.

    Args:
        texts: each a text, or a list or tuple of two.

    Returns:
        For each, one text or two.

    Raises:
        InputError: an entry is neither; the message has its index.
    """
    pairs: list[tuple[str, ...]] = []
    for index, entry in enumerate(texts):
        if isinstance(entry, str):
            pairs.append((entry,))
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


def encoded_pairs(tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]]) -> Iterator[list[Encoding]]:
    """The encodings of texts (one each) and pairs of texts (two each), all worked out in one call.

    Args:
        tokenizer: the tokenizer.
        texts: each a text or a pair.

    Raises:
        InputError: an entry is neither; the message has its index.
    """
    entries = checked_pairs(texts)
    encodings = iter(tokenizer.encode_batch([text for entry in entries for text in entry]))
    for entry in entries:
        yield [next(encodings) for _ in entry]


def checked_texts(texts: Sequence[object]) -> list[str]:
    """The texts, if all of them are.

    Raises:
        InputError: one is not; the message has its index.
    """
    try:
        texts = list(texts)
    except TypeError as error:
        raise InputError(f"Expected a list of texts, but found {texts!r:.80}.") from error
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {index} is {type(text).__name__}; expected a text.")
    return [text for text in texts if isinstance(text, str)]
