"""Entities from a model's scores: softmax, CRF and GlobalPointer, for texts of any length."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from flagai.data.prepare.bert import BertInput
from flagai.data.prepare.labels import Span, characters, decode
from flagai.data.prepare.scheme import OUTSIDE, read_tags
from flagai.data.tokenizer.encoding import Offset
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.predictor import encoder_heads as reading
from flagai.model.predictor.arguments import read_length
from flagai.model.predictor.text_windows import joined, windows_of


def entities_of(
    model: BaseModel, outputs: str | None, rows: Sequence[BertInput], labels: Sequence[str]
) -> list[list[Span]]:
    """The entities of texts."""
    windows = windows_of(rows, cast(int, read_length("maxlen", None, model)))
    parts = [window.row for window in windows]
    if outputs == "spans":
        found: list[list[tuple[int, int, int]]] = [[] for _ in rows]
        for window, spans in zip(windows, reading.spans(model, parts), strict=True):
            places = (spans + torch.tensor([0, window.begin, window.begin])).tolist()
            found[window.text] += [(kind, first, last) for kind, first, last in places if first in window.own]
        named = (
            [characters(first, last, labels[kind], row.offsets) for kind, first, last in sorted(spans)]
            for spans, row in zip(found, rows, strict=True)
        )
        return [[span for span in spans if span is not None] for spans in named]
    scores = joined(windows, reading.per_token(model, parts))
    crf = model.crf if outputs == "crf" else None
    return [read_entities(crf, each, labels, row.offsets, row.inner) for each, row in zip(scores, rows, strict=True)]


def read_entities(
    crf: Any,
    scores: torch.Tensor,
    labels: Sequence[str],
    offsets: Sequence[Offset],
    inner: Sequence[bool] = (),
) -> list[Span]:
    """The entities of one text, from the scores of its tokens.

    Args:
        crf: the layer that finds the best path; None takes the best label of each token.
        scores: [S, classes].
        labels: the names of the classes.
        offsets: each token's characters (start, end exclusive), empty at special tokens.
        inner: which tokens continue a word.
    """
    if crf is None:
        return decode(scores.argmax(-1).tolist(), labels, offsets, inner)
    valid = torch.ones(1, len(scores), dtype=torch.bool, device=scores.device)
    # The first token is [CLS], which is no entity.
    outside = [number for number, tag in enumerate(read_tags(tuple(labels))) if tag == OUTSIDE]
    return decode([int(label) for label in crf.decode(scores[None], valid, first=outside)[0]], labels, offsets, inner)


def check_types(labels: Sequence[str]) -> None:
    """Refuse labels of tokens for GlobalPointer, which has one class for each type ("LOC").

    Raises:
        InputError: the labels are of the other form.
    """
    tags = [tag for tag in read_tags(tuple(labels)) if tag != OUTSIDE]
    if "O" in labels or len({tag.kind for tag in tags}) < len(tags):
        raise InputError(
            f"GlobalPointer's labels are types alone, such as ['LOC', 'ORG', 'PER']; found {list(labels)}."
        )


def known_labels(model: BaseModel) -> tuple[str, ...]:
    """The names of a model's classes, if its configuration (``id2label``) has them.

    Raises:
        InputError: it has none, or only those that transformers makes up (LABEL_0).
    """
    names = model.config.get("id2label") or {}
    numbered = (
        dict(enumerate(names)) if isinstance(names, list) else {int(number): name for number, name in names.items()}
    )
    found = tuple(str(numbered[number]) for number in sorted(numbered))
    right = found and sorted(numbered) == list(range(len(numbered)))
    if not right or all(name == f"LABEL_{number}" for number, name in enumerate(found)):
        raise InputError(
            f"The configuration of this {type(model).__name__} does not name its {model.config.class_num} classes "
            "(id2label). Name them, in the order of training."
        )
    return found
