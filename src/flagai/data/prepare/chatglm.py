"""Inputs of the ChatGLM generations: a text whose answer is a blank at its end, and a text that is continued."""

from collections.abc import Sequence
from itertools import chain

from flagai.data.prepare.batch import Batch, encoded, encoded_pairs, kept, kept_end, ones, padded
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer

MASKS = ("mask", "gMASK")


def blank_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Prompts of ChatGLM-6B: ``text [gMASK]``, whose blank is the answer; a text with a mask of its own stays as it is.

    Of a text that is too long the beginning is dropped, because the end is answered.
    """
    masks = [tokenizer.find_command_id(name) for name in MASKS]
    gmask = tokenizer.get_command_id("gMASK")
    found = []
    for ids in encoded(tokenizer, texts):
        own = next((mask for mask in reversed(masks) if mask in ids), None)
        row = kept_end(ids, max_length, 0 if own is not None else 1)
        row = row if own in row else [*row, gmask]
        found.append(Prompt(tuple(row), (row.index(own if own in row else gmask),)))
    return found


def prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[Prompt]:
    """Prompts of ChatGLM2 and later: ``[gMASK] <sop> text``.

    Of a text that is too long the beginning is dropped, because the end is continued.
    """
    begin = [tokenizer.get_command_id(name) for name in ("gMASK", "sop")]
    return [Prompt((*begin, *kept_end(ids, max_length, len(begin)))) for ids in encoded(tokenizer, texts)]


def classification_rows(
    tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]], max_length: int | None = None
) -> list[Prompt]:
    """Rows of a classifier, which reads the last token: ``[gMASK] <sop> text`` or ``[gMASK] <sop> one other <eos>``."""
    begin, end = [tokenizer.get_command_id(name) for name in ("gMASK", "sop")], tokenizer.get_command_id("eos")
    rows = []
    for encodings in encoded_pairs(tokenizer, texts):
        last = [end] if len(encodings) > 1 else []
        parts = kept(tokenizer, [encoding.ids for encoding in encodings], max_length, len(begin) + len(last))
        rows.append(Prompt((*begin, *chain.from_iterable(parts), *last)))
    return rows


def classification_batch(tokenizer: Tokenizer, rows: Sequence[Prompt]) -> Batch:
    """Rows of :func:`classification_rows` as ``input_ids`` and ``attention_mask``, [B, S]."""
    ids = [row.ids for row in rows]
    return {"input_ids": padded(ids, tokenizer.get_command_id("pad")), "attention_mask": ones(ids)}
