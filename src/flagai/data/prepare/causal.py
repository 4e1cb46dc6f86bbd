"""Inputs of GPT-2: a text to continue, and pairs to learn from."""

from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, encoded, last, padded, shortened
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer


def prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Texts to continue: ``[CLS] text`` in a BERT vocabulary, else the text alone.

    Args:
        tokenizer: the model's tokenizer.
        texts: beginnings; an empty one begins with the tokenizer's first token.
        max_length: how many tokens a prompt may have; the beginning is cut off, because the end is continued.

    Raises:
        InputError: ``max_length`` leaves no room.
    """
    return [Prompt(tuple(row)) for row in _sources(tokenizer, texts, max_length)]


def pairs(tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], max_length: int | None = 512) -> Batch:
    """Texts and their continuations, for training: ``[CLS] source [SEP] target [SEP]``.

    Args:
        tokenizer: the model's tokenizer.
        sources: what is given.
        targets: what shall follow.
        max_length: how many tokens a row may have.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, [B, S]; labels are the tokens themselves, -100 at the
        source and at padding.
    """
    end = tokenizer.token_end_id
    begin = start(tokenizer)
    rows, labels = [], []
    for source, target in zip(encoded(tokenizer, sources), encoded(tokenizer, targets), strict=True):
        own, other = list(source.ids), list(target.ids)
        if max_length is not None:
            own, other = shortened(tokenizer, [own, other], max_length - len(begin) - 2)
        given = [*begin, *own, end]
        rows.append([*given, *other, end])
        labels.append([*[-100] * len(given), *other, end])
    return {
        "input_ids": padded(rows, tokenizer.get_command_id("pad")),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
        "labels": padded(labels, -100),
    }


def start(tokenizer: Tokenizer) -> list[int]:
    """What a text begins with: ``[CLS]`` where the vocabulary is BERT's, nothing in a byte-level one."""
    cls = tokenizer.find_command_id("cls") if tokenizer.kind != "bpe" else None
    return [] if cls is None else [cls]


def _sources(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    begin = start(tokenizer)
    rows = []
    for encoding in tokenizer.encode_batch(texts):
        ids = encoding.ids if max_length is None else last(encoding.ids, max_length - len(begin))
        rows.append([*begin, *ids] or [tokenizer.token_start_id])
    return rows
