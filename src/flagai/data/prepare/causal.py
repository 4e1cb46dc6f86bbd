"""Inputs of GPT-2: a text to continue, and pairs to learn from."""

from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, encoded, kept, kept_end, ones, padded
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer


def prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts to continue: ``[CLS] text`` in a BERT vocabulary, else the text alone, or the first token if it is empty.

    Of a text that is too long the beginning is dropped, because the end is continued.
    """
    begin = start(tokenizer)
    rows = [[*begin, *kept_end(ids, max_length, len(begin))] for ids in tokenizer.encode_many(texts)]
    return [Prompt(tuple(row or [tokenizer.token_start_id])) for row in rows]


def pairs(tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], max_length: int | None = 512) -> Batch:
    """Texts and their continuations, for training: ``[CLS] source [SEP] target [SEP]``.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, [B, S]; labels are the tokens themselves, -100 at the
        source and at padding.
    """
    begin, end = start(tokenizer), tokenizer.token_end_id
    rows, labels = [], []
    for pair in zip(encoded(tokenizer, sources), encoded(tokenizer, targets), strict=True):
        own, other = kept(tokenizer, pair, max_length, len(begin) + 2)
        given = [*begin, *own, end]
        rows.append([*given, *other, end])
        labels.append([*[-100] * len(given), *other, end])
    pad = tokenizer.get_command_id("pad")
    return {"input_ids": padded(rows, pad), "attention_mask": ones(rows), "labels": padded(labels, -100)}


def windows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Batch:
    """Texts of any length, for training: ``[CLS] text`` in a BERT vocabulary, else the text alone, cut into windows.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, [B, S]; a window's first token has nothing to predict it from.
    """
    begin = start(tokenizer)
    whole = [[*begin, *ids] or [tokenizer.token_start_id] for ids in encoded(tokenizer, texts)]
    rows = [row[place : place + max_length] for row in whole for place in range(0, len(row), max_length)]
    labels = [[-100, *row[1:]] for row in rows]
    pad = tokenizer.get_command_id("pad")
    return {"input_ids": padded(rows, pad), "attention_mask": ones(rows), "labels": padded(labels, -100)}


def start(tokenizer: Tokenizer) -> list[int]:
    """What a text begins with: ``[CLS]`` where the vocabulary is BERT's, nothing in a byte-level one."""
    cls = tokenizer.find_command_id("cls") if tokenizer.kind != "bpe" else None
    return [] if cls is None else [cls]
