"""Encoders at work: many texts through a BERT head, packed without padding, one result per text."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from flagai.checks import check_integer
from flagai.data.prepare import bert
from flagai.data.prepare.batch import Batch, checked_limit
from flagai.data.tokenizer import Tokenizer
from flagai.families.family import family_and_row
from flagai.model.base_model import BaseModel
from flagai.model.layer import PackedRow
from flagai.model.packing import PackedBatch, run_packed
from flagai.model.predictor.arguments import read_length, replace_unknown

logger = logging.getLogger(__name__)

Text = str | Sequence[str]
Found = TypeVar("Found")
_BATCH = 64  # texts of a padded batch


class ScoredSpan(NamedTuple):
    """A span of tokens and GlobalPointer's score of it."""

    kind: int  # the number of its type
    first: int  # its first token, and
    last: int  # its last
    score: float


def rows(model: BaseModel, tokenizer: Tokenizer, texts: Sequence[Text], max_length: int | None) -> list[bert.BertInput]:
    """The tokens of texts or pairs, cut to ``max_length`` and to what the model has positions for."""
    found = bert.rows(tokenizer, texts, read_length("maxlen", max_length, model))
    return [replace(row, ids=replace_unknown(row.ids, tokenizer, model)) for row in found]


def whole_rows(
    model: BaseModel, tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None
) -> list[bert.BertInput]:
    """The tokens of texts, also more than the model has positions for; a warning names what ``max_length`` cuts off."""
    if max_length is not None:
        checked_limit(check_integer("maxlen", max_length) - 2)
    found = [replace(row, ids=replace_unknown(row.ids, tokenizer, model)) for row in bert.rows(tokenizer, texts)]
    long = [index for index, row in enumerate(found) if max_length is not None and len(row.ids) > max_length]
    if not long or max_length is None:
        return found
    first, left = found[long[0]], tokenizer.truncation_side == "left"
    count = len(first.ids)
    lost = first.offsets[count - max_length + 1 if left else max_length - 1][0]
    logger.warning(
        "Text %d has %d tokens, of which maxlen=%d are read: not its characters %s%s. Leave maxlen out to read texts "
        "of any length.",
        *(long[0], count, max_length, f"before {lost}" if left else f"from {lost} on"),
        f" (and so {len(long) - 1} more texts)" if long[1:] else "",
    )
    begins = [max(0, len(row.ids) - max_length) if left else 0 for row in found]
    return [row.part(begin, min(len(row.ids), begin + max_length)) for row, begin in zip(found, begins, strict=True)]


def per_token(model: BaseModel, found: Sequence[bert.BertInput]) -> list[torch.Tensor]:
    """The logits of each text's tokens, [S, ...]."""
    return _run(model, found, lambda row, logits: row.split(logits))


def class_logits(model: BaseModel, tokenizer: Tokenizer, texts: Sequence[Text], max_length: int | None) -> torch.Tensor:
    """The logits of each text, [N, classes]."""
    family, _ = family_and_row(model)
    if family is not None and family.class_rows is not None and family.class_batch is not None:
        inputs = family.class_rows(tokenizer, texts, read_length("maxlen", max_length, model))
        return _padded_logits(model, inputs, partial(family.class_batch, tokenizer))
    found = rows(model, tokenizer, texts, max_length)
    return torch.stack(_run(model, found, lambda _, logits: logits.unbind(0)))


def spans(model: BaseModel, found: Sequence[bert.BertInput]) -> list[list[ScoredSpan]]:
    """The spans of each text that score above 0, in order; never of [CLS] and [SEP]."""

    def cut(row: PackedRow, logits: torch.Tensor) -> list[list[ScoredSpan]]:
        inner = [scores[:, 1 : length - 1, 1 : length - 1] for scores, length in zip(logits, row.lengths, strict=True)]
        return [
            [
                ScoredSpan(kind, first + 1, last + 1, score)
                for (kind, first, last), score in zip(
                    (scores > 0).nonzero().tolist(), scores[scores > 0].tolist(), strict=True
                )
            ]
            for scores in inner
        ]

    return _run(model, found, cut)


def best_tokens(model: BaseModel, found: Sequence[bert.BertInput], never: torch.Tensor) -> list[list[int]]:
    """The most probable token at every position of each text; logits of one pack are held at a time."""

    def cut(row: PackedRow, logits: torch.Tensor) -> list[torch.Tensor]:
        return list(row.split(logits.index_fill(-1, never, -torch.inf).argmax(-1)))

    return [ids.tolist() for ids in _run(model, found, cut)]


@torch.inference_mode()
def _padded_logits(model: BaseModel, rows: Sequence[Any], collate: Callable[[Sequence[Any]], Batch]) -> torch.Tensor:
    """The logits of each row, [N, classes], in padded batches of similar length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    found: dict[int, torch.Tensor] = {}
    for begin in range(0, len(order), _BATCH):
        part = order[begin : begin + _BATCH]
        batch = collate([rows[index] for index in part])
        logits = model(**{name: value.to(model.device) for name, value in batch.items()})["logits"]
        found.update(zip(part, logits.float().cpu(), strict=True))
    return torch.stack([found[index] for index in range(len(rows))])


@torch.inference_mode()
def _run(
    model: BaseModel,
    found: Sequence[bert.BertInput],
    cut: Callable[[PackedRow, torch.Tensor], Sequence[Found]],
) -> list[Found]:
    def run(pack: PackedBatch) -> list[Found]:
        # One copy to the host per pack, not one per text.
        values = model(**pack.arguments)["logits"].float().cpu()
        return list(cut(pack.row, values))

    return run_packed(
        [row.ids for row in found],
        run,
        device=model.device,
        token_type_ids=[row.segments for row in found],
    )
