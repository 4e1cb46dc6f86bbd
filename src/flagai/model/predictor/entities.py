"""Entities from a model's scores: softmax, CRF and GlobalPointer, for texts of any length."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean
from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from flagai.data.prepare.bert import BertInput
from flagai.data.prepare.labels import Span, characters, decode
from flagai.data.prepare.scheme import OUTSIDE, read_tags
from flagai.data.tokenizer.encoding import Offset
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.layer.crf import CRF
from flagai.model.predictor import encoder_heads as reading
from flagai.model.predictor.arguments import read_length
from flagai.model.predictor.results import Entity
from flagai.model.predictor.text_windows import Window, joined, windows_of

_BATCH = 64  # texts that the CRF reads at once


def entities_of(
    model: BaseModel, outputs: str | None, texts: Sequence[str], rows: Sequence[BertInput], labels: Sequence[str]
) -> list[list[Entity]]:
    """The entities of texts, whose tokens are ``rows``."""
    windows = windows_of(rows, cast(int, read_length("maxlen", None, model)))
    parts = [window.row for window in windows]
    if outputs == "spans":
        found: list[list[tuple[Span, float]]] = _spans(windows, reading.spans(model, parts), rows, labels)
    else:
        scores = joined(windows, reading.per_token(model, parts))
        found = read_entities(cast(CRF, model.crf) if outputs == "crf" else None, scores, labels, rows)
    return [
        [Entity(span.start, span.end, span.label, text[span.start : span.end + 1], score) for span, score in spans]
        for text, spans in zip(texts, found, strict=True)
    ]


def _spans(
    windows: Sequence[Window],
    answers: Sequence[Sequence[reading.ScoredSpan]],
    rows: Sequence[BertInput],
    labels: Sequence[str],
) -> list[list[tuple[Span, float]]]:
    """The spans of characters of each text, from those of tokens of its windows; each is its first token's window's."""
    found: list[list[reading.ScoredSpan]] = [[] for _ in rows]
    for window, spans in zip(windows, answers, strict=True):
        moved = [reading.ScoredSpan(kind, a + window.begin, b + window.begin, score) for kind, a, b, score in spans]
        found[window.text] += [span for span in moved if span.first in window.own]
    named = (
        [(characters(at.first, at.last, labels[at.kind], row.offsets), at.score) for at in sorted(spans)]
        for spans, row in zip(found, rows, strict=True)
    )
    return [[(span, score) for span, score in spans if span is not None] for spans in named]


def read_entities(
    crf: CRF | None, scores: Sequence[torch.Tensor], labels: Sequence[str], rows: Sequence[BertInput]
) -> list[list[tuple[Span, float]]]:
    """The entities of texts and how probable they are, from the scores of their tokens.

    Args:
        crf: the layer that finds the best path; None takes the best label of each token.
        scores: of each text, [S, classes].
        labels: the names of the classes.
        rows: the texts' tokens.
    """
    if crf is None:
        best = [each.softmax(-1).max(-1) for each in scores]
        paths = [(path.tolist(), probabilities.tolist()) for probabilities, path in best]
    else:
        paths = _best_paths(crf, scores, labels)
    return [
        _with_scores(decode(path, labels, row.offsets, row.inner), probabilities, row.offsets)
        for (path, probabilities), row in zip(paths, rows, strict=True)
    ]


def _best_paths(crf: CRF, scores: Sequence[torch.Tensor], labels: Sequence[str]) -> list[tuple[list[int], list[float]]]:
    """The best labels of each text's tokens, and their marginal probabilities; texts of similar length together."""
    # The first token is [CLS], which is no entity.
    outside = [number for number, tag in enumerate(read_tags(tuple(labels))) if tag == OUTSIDE]
    order = sorted(range(len(scores)), key=lambda index: len(scores[index]))
    found: dict[int, tuple[list[int], list[float]]] = {}
    for begin in range(0, len(order), _BATCH):
        batch = order[begin : begin + _BATCH]
        emissions = pad_sequence([scores[index] for index in batch], batch_first=True).to(crf.transitions.device)
        lengths = torch.tensor([len(scores[index]) for index in batch], device=emissions.device)
        valid = torch.arange(emissions.shape[1], device=emissions.device) < lengths[:, None]
        paths = crf.decode(emissions, valid, first=outside)
        chosen = crf.marginals(emissions, valid, first=outside).gather(2, paths.clamp(min=0)[..., None])[..., 0]
        for index, path, probabilities in zip(batch, paths.tolist(), chosen.tolist(), strict=True):
            found[index] = path[: len(scores[index])], probabilities[: len(scores[index])]
    return [found[index] for index in range(len(scores))]


def _with_scores(
    spans: Sequence[Span], probabilities: Sequence[float], offsets: Sequence[Offset]
) -> list[tuple[Span, float]]:
    """Spans with the means of their tokens' probabilities."""
    real = [(start, number) for number, (start, end) in enumerate(offsets) if end > start]
    starts = [start for start, _ in real]
    found = []
    for span in spans:
        tokens = real[bisect_left(starts, span.start) : bisect_right(starts, span.end)]
        found.append((span, fmean(probabilities[number] for _, number in tokens)))
    return found


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


def own_class_names(model: BaseModel) -> list[str]:
    """The names of the classes that the configuration has; none if it has none."""
    try:
        return list(known_labels(model))
    except InputError:
        return []
