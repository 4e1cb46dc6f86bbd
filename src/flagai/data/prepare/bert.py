"""Inputs of BERT: texts, pairs, sequence to sequence (UniLM), labels of tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flagai.data.prepare.batch import (
    Batch,
    checked_limit,
    checked_pairs,
    checked_texts,
    encoded_pairs,
    kept,
    ones,
    padded,
)
from flagai.data.prepare.labels import Span, encode, on_tokens
from flagai.data.ragged import Ragged
from flagai.data.tokenizer import Encoding, Tokenizer
from flagai.data.tokenizer.formats import Frames, with_ends
from flagai.data.tokenizer.text import inside_words
from flagai.errors import InputError

NO_CHARACTERS = (0, 0)
# Of BERT's own training (Devlin et al. 2019, section 3.1): the share of tokens to predict; of these, the share that
# [MASK] replaces, and the share that another token replaces.
_PREDICTED, _MASKED, _REPLACED = 0.15, 0.8, 0.1
_Token = tuple[int, tuple[int, int], bool]  # id, characters, and whether it continues a word


@dataclass(frozen=True)
class BertInput:
    """The tokens of a text or a pair, with the special tokens that the tokenizer puts around them."""

    ids: list[int]
    segments: list[int]  # what the tokenizer says: of BERT 0 up to the first `[SEP]` and 1 after it, of RoBERTa 0
    offsets: list[tuple[int, int]]  # characters in the token's own text (end exclusive); (0, 0) for special tokens
    inner: list[bool]  # whether a token continues a word

    def part(self, begin: int, end: int) -> "BertInput":
        """A part of a text alone, from token ``begin`` to ``end``; its first is ``[CLS]`` and its last ``[SEP]``."""
        ends = slice(begin + 1, end - 1)
        return BertInput(
            [self.ids[0], *self.ids[ends], self.ids[-1]],
            [0] * (end - begin),
            [NO_CHARACTERS, *self.offsets[ends], NO_CHARACTERS],
            [False, *self.inner[ends], False],
        )


def rows(tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]], max_length: int | None = None) -> list[BertInput]:
    """The tokens of texts and pairs of texts."""
    return _rows(tokenizer, texts, max_length, checked_frames(tokenizer))


def checked_frames(tokenizer: Tokenizer) -> Frames:
    """The special tokens around one text and around two, if a BERT can have been trained with such."""
    if not tokenizer.frames[0].surrounds:
        raise InputError(
            f"{tokenizer.description.folder}: this tokenizer does not put one special token before a text and one "
            "behind it, as a BERT needs. Take the model's own tokenizer, or give its tokenizer.json a post_processor."
        )
    return tokenizer.frames


def id_rows(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None = None) -> Ragged:
    """The ids of :func:`rows` for texts alone, without working out which characters they come from."""
    found = Ragged.of(tokenizer.encode_many(checked_texts(texts)))
    before, behind = checked_frames(tokenizer)[0].ids([[]])
    if max_length is not None:
        found = found.cut(checked_limit(max_length - 2), tokenizer.truncation_side)
    return found.between(before, behind)


def embedding(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Batch:
    """Texts to embed: ``input_ids`` and ``attention_mask``, [B, S]."""
    ids = [row.ids for row in rows(tokenizer, texts, max_length)]
    return {"input_ids": padded(ids, tokenizer.get_command_id("pad")), "attention_mask": ones(ids)}


def _rows(
    tokenizer: Tokenizer, texts: Sequence[str | Sequence[str]], max_length: int | None, frames: Frames
) -> list[BertInput]:
    found = []
    for pair, encodings in zip(checked_pairs(texts), encoded_pairs(tokenizer, texts), strict=True):
        frame = frames[len(pair) - 1]
        parts = [_tokens(tokenizer, text, encoding) for text, encoding in zip(pair, encodings, strict=True)]
        parts = kept(tokenizer, parts, max_length, frame.specials)
        tokens = frame.laid(parts, lambda number: (number, NO_CHARACTERS, False))
        ids, offsets, inner = map(list, zip(*tokens, strict=True))
        found.append(BertInput(ids, frame.types(parts), offsets, inner))
    return found


def _tokens(tokenizer: Tokenizer, text: str, encoding: Encoding) -> list[_Token]:
    if tokenizer.kind == "wordpiece":
        inner = [token.startswith("##") for token in encoding.tokens]
    else:
        inner = inside_words(text, encoding.offsets)
    return list(zip(encoding.ids, encoding.offsets, inner, strict=True))


def collate(found: Sequence[BertInput], pad_id: int = 0) -> Batch:
    """Pad rows: ``input_ids``, ``segment_ids`` and ``attention_mask``, [B, S]."""
    ids = [row.ids for row in found]
    segments = padded([row.segments for row in found], 0)
    return {"input_ids": padded(ids, pad_id), "segment_ids": segments, "attention_mask": ones(ids)}


def classification(
    tokenizer: Tokenizer,
    texts: Sequence[str | Sequence[str]],
    classes: Sequence[int] | None = None,
    max_length: int | None = 512,
) -> Batch:
    """Texts or pairs to be classified: as :func:`collate`; for training with ``labels`` [B], the right classes."""
    batch = collate(rows(tokenizer, texts, max_length), tokenizer.get_command_id("pad"))
    return batch if classes is None else {**batch, "labels": torch.tensor(list(classes))}


def masked(tokenizer: Tokenizer, texts: Sequence[str], rng: random.Random, max_length: int | None = 512) -> Batch:
    """Texts with some tokens masked: as :func:`collate`, with ``labels`` [B, S], -100 where none is predicted."""
    mask, size = tokenizer.get_command_id("mask"), tokenizer.vocab_size
    found = rows(tokenizer, texts, max_length)
    labels = []
    for row in found:
        inner = range(1, len(row.ids) - 1)
        chosen = rng.sample(inner, min(len(inner), max(1, round(len(inner) * _PREDICTED))))
        wanted = [-100] * len(row.ids)
        for place in chosen:
            wanted[place] = row.ids[place]
            kind = rng.random()
            if kind < _MASKED:
                row.ids[place] = mask
            elif kind < _MASKED + _REPLACED:
                row.ids[place] = rng.randrange(size)
        labels.append(wanted)
    return {**collate(found, tokenizer.get_command_id("pad")), "labels": padded(labels, -100)}


def seq2seq(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    targets: Sequence[str] | None = None,
    max_length: int | None = 512,
) -> Batch:
    """What to read and, for training, what to write (UniLM): ``[CLS] source [SEP] target [SEP]``.

    Returns:
        ``input_ids`` and ``segment_ids`` [B, S], 0 at sources and 1 at targets; with ``targets`` also ``labels``
        [B, S - 1], the next token of every position.
    """
    texts = sources if targets is None else list(zip(sources, targets, strict=True))
    # UniLM's own rule, whatever the tokenizer's for pairs is: the segments tell what is read and what is written.
    frames = with_ends(tokenizer.get_command_id("cls"), tokenizer.get_command_id("sep"))
    batch = collate(_rows(tokenizer, texts, max_length, frames), tokenizer.get_command_id("pad"))
    del batch["attention_mask"]  # the head makes UniLM's mask of the segments
    return batch if targets is None else {**batch, "labels": batch["input_ids"][:, 1:].clone()}


def labelling(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    entities: Sequence[Sequence[Span]],
    labels: Sequence[str],
    max_length: int | None = 256,
) -> Batch:
    """Texts whose entities are known, for training softmax and CRF heads with these labels, "O" first.

    Returns:
        As :func:`collate`, with ``labels`` [B, S], 0 at special tokens and -100 at padding.
    """
    found = rows(tokenizer, texts, max_length)
    numbers = [encode(spans, labels, row.offsets) for spans, row in zip(entities, found, strict=True)]
    return {**collate(found, tokenizer.get_command_id("pad")), "labels": padded(numbers, -100)}


def span_labelling(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    entities: Sequence[Sequence[Span]],
    types: Sequence[str],
    max_length: int | None = 256,
) -> Batch:
    """Texts whose entities, which may overlap, are known, for training GlobalPointer with types such as "LOC".

    Returns:
        As :func:`collate`, with ``labels`` [B, types, S, S], 1 at (first token, last token) of an entity.
    """
    found = rows(tokenizer, texts, max_length)
    batch = collate(found, tokenizer.get_command_id("pad"))
    width = batch["input_ids"].shape[1]
    grid = torch.zeros(len(found), len(types), width, width)
    for index, (spans, row) in enumerate(zip(entities, found, strict=True)):
        for span, first, last in on_tokens(spans, row.offsets):
            if span.label not in types:
                raise InputError(f"There is no type {span.label!r} for an entity. Known: {', '.join(types)}.")
            grid[index, list(types).index(span.label), first, last] = 1
    return {**batch, "labels": grid}
