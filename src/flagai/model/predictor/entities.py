"""Entities from a model's scores: softmax, CRF and GlobalPointer."""

from collections.abc import Sequence

import torch

from flagai.data.prepare.labels import Offset, Span, characters, decode
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
        path = model.crf.decode(scores[None], valid, first_label=0)[0]
        return decode([int(label) for label in path], labels, offsets, inner)
    return decode(scores.argmax(-1).tolist(), labels, offsets, inner)


def _from_spans(scores: torch.Tensor, types: Sequence[str], offsets: Sequence[Offset]) -> list[Span]:
    """Every span with a score above 0, by type, then by place; never from or to [CLS] and [SEP]."""
    inner = scores[:, 1:-1, 1:-1] > 0
    found = (characters(first + 1, last + 1, types[kind], offsets) for kind, first, last in inner.nonzero().tolist())
    return [span for span in found if span is not None]


def checked_types(labels: Sequence[str], model: BaseModel) -> None:
    """Refuse labels of the wrong form: GlobalPointer has types ("LOC"), the others "O", "B-LOC", "I-LOC".

    Raises:
        InputError: the labels are of the other form.
    """
    pointer = isinstance(model, BertForSequenceLabelingGP)
    prefixed = [label for label in labels if label[:2] in ("B-", "I-")]
    found = f"found {list(labels)}."
    if pointer and (prefixed or "O" in labels):
        raise InputError(f"GlobalPointer's labels are types alone, such as ['LOC', 'ORG', 'PER']; {found}")
    if not pointer and not any(label.startswith("B") for label in labels):
        raise InputError(f"Labels of tokens are 'O', and 'B-' and 'I-' with a type, such as 'B-LOC'; {found}")


def known_labels(model: BaseModel) -> tuple[str, ...]:
    """The names of a model's classes, if its configuration (``id2label``) has them.

    Raises:
        InputError: it has none.
    """
    names = model.config.get("id2label") or {}
    numbered = {int(number): str(name) for number, name in names.items()}
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        raise InputError(
            f"The configuration of this {type(model).__name__} does not name its {model.config.class_num} classes "
            "(id2label). Name them, in the order of training."
        )
    return tuple(numbered[number] for number in range(len(numbered)))
