"""Entities from a model's scores: softmax, CRF and GlobalPointer."""

from collections.abc import Sequence

import torch

from flagai.data.prepare.labels import Offset, Span, characters, decode
from flagai.data.prepare.scheme import OUTSIDE, read_tags
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForSequenceLabelingCRF, BertForSequenceLabelingGP


def read_entities(
    model: BaseModel,
    scores: torch.Tensor,
    labels: Sequence[str],
    offsets: Sequence[Offset],
    inner: Sequence[bool] = (),
) -> list[Span]:
    """The entities of one text.

    Args:
        model: the model that gave the scores.
        scores: [S, classes]; from GlobalPointer [classes, S, S].
        labels: the names of the classes.
        offsets: each token's characters (start, end exclusive), empty at special tokens.
        inner: which tokens continue a word.
    """
    if isinstance(model, BertForSequenceLabelingGP):
        return _from_spans(scores, labels, offsets)
    if isinstance(model, BertForSequenceLabelingCRF):
        valid = torch.ones(1, len(scores), dtype=torch.bool, device=scores.device)
        # The first token is [CLS], which is no entity.
        outside = [number for number, tag in enumerate(read_tags(tuple(labels))) if tag == OUTSIDE]
        path = model.crf.decode(scores[None], valid, first=outside)[0]
        return decode([int(label) for label in path], labels, offsets, inner)
    return decode(scores.argmax(-1).tolist(), labels, offsets, inner)


def _from_spans(scores: torch.Tensor, types: Sequence[str], offsets: Sequence[Offset]) -> list[Span]:
    """Every span with a score above 0, by type, then by place; never from or to [CLS] and [SEP]."""
    inner = scores[:, 1:-1, 1:-1] > 0
    found = (characters(first + 1, last + 1, types[kind], offsets) for kind, first, last in inner.nonzero().tolist())
    return [span for span in found if span is not None]


def checked_types(labels: Sequence[str], model: BaseModel) -> None:
    """Refuse labels of tokens for GlobalPointer, which has one class for each type ("LOC").

    Raises:
        InputError: the labels are of the other form.
    """
    if isinstance(model, BertForSequenceLabelingGP):
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
