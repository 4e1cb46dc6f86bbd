"""GLM's own training: spans of a text are taken out and written after it.

Source: Du et al. 2022, "GLM", sections 2.1 and 2.2.
"""

import math
import random
from collections.abc import Sequence

from flagai.data.prepare.batch import Batch, kept
from flagai.data.prepare.glm import GLMInput, blank_row, collate
from flagai.data.tokenizer import Tokenizer

# Tokens taken out, mean length of a span, and the shortest part of a text that is taken out at its end.
_SHARE, _MEAN_LENGTH, _SHORTEST_END = 0.15, 3.0, 0.5
# Texts that lose short spans; the others lose their end.
_SHORT = 0.5

Interval = tuple[int, int]  # start and end (exclusive)


def block_row(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    spans: Sequence[Interval],
    mask: str = "mask",
    order: Sequence[int] | None = None,
) -> GLMInput:
    """A text whose spans are each replaced by one mask and written after it.

    Args:
        tokenizer: a GLM's tokenizer.
        ids: the whole text.
        spans: ascending and apart.
        mask: the name of the mask: "mask" for short spans, "sMASK" for sentences, "gMASK" for a long end.
        order: in which order the spans are written; default their own.
    """
    mask_id = tokenizer.get_command_id(mask)
    text: list[int] = []
    fillings: list[tuple[int, Sequence[int]]] = []
    end = 0
    for start, stop in spans:
        text += ids[end:start]
        fillings.append((len(text), ids[start:stop]))
        text.append(mask_id)
        end = stop
    text += ids[end:]
    row = blank_row(tokenizer, text, [fillings[index] for index in order or range(len(fillings))])
    row.targets[: len(text)] = text  # what stands there predicts itself; its weight is 0
    return row


def short_spans(length: int, rng: random.Random, protected: int = 1) -> list[Interval]:
    """Sample short spans (Poisson, mean 3) until 15 % of the tokens are in one; ``protected`` at both ends stay.

    Returns:
        Ascending spans with at least one token between them; empty for a text that is too short.
    """
    budget = round(length * _SHARE)
    taken = [False] * length
    spans: list[Interval] = []
    for _ in range(20 * max(1, budget)):
        if budget <= 0:
            break
        size = min(max(1, _poisson(_MEAN_LENGTH, rng)), budget)
        last = length - protected - size
        if last < protected:
            break
        start = rng.randint(protected, last)
        if not any(taken[max(0, start - 1) : start + size + 1]):
            taken[start : start + size] = [True] * size
            spans.append((start, start + size))
            budget -= size
    return sorted(spans)


def long_end(length: int, rng: random.Random, protected: int = 1) -> list[Interval]:
    """Sample the long last part of a text: at least half of it; ``protected`` tokens at the beginning stay."""
    size = rng.randint(math.ceil(length * _SHORTEST_END), length)
    start = max(protected, length - size)
    return [(start, length)] if start < length else []


def _poisson(mean: float, rng: random.Random) -> int:
    """Knuth's method, which is exact and short; the mean is small."""
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def pretraining(tokenizer: Tokenizer, texts: Sequence[str], rng: random.Random, max_length: int | None = 512) -> Batch:
    """Texts whose spans are taken out, for training :class:`GLMModel`: half of them short spans, half a long end.

    Returns:
        ``input_ids`` and ``labels`` [B, S], -100 where nothing is predicted; ``position_ids`` [B, 2, S];
        ``attention_mask`` [B], the separators.
    """
    rows = [_masked_row(tokenizer, ids, rng, max_length) for ids in tokenizer.encode_many(texts)]
    batch = collate(rows, tokenizer.get_command_id("pad"))
    targets, counted = batch.pop("target_ids"), batch.pop("loss_mask").bool()
    return {**batch, "labels": targets.masked_fill(~counted, -100)}


def _masked_row(tokenizer: Tokenizer, tokens: Sequence[int], rng: random.Random, max_length: int | None) -> GLMInput:
    cls, eos = tokenizer.get_command_id("cls"), tokenizer.get_command_id("eos")
    (read,) = kept(tokenizer, [tokens], max_length, 2)
    spans = short_spans(len(read) + 2, rng) if rng.random() < _SHORT else []
    if spans:
        return block_row(tokenizer, [cls, *read, eos], spans)
    long_mask = "gMASK" if tokenizer.find_command_id("gMASK") is not None else "mask"
    return block_row(tokenizer, [cls, *read], long_end(len(read) + 1, rng), long_mask)
