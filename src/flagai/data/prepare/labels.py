"""Labels of tokens and the spans of text they mean, both ways.

Label 0 means "no entity". A label that starts with B opens an entity; its type is what follows the hyphen. Any other
label continues the open entity, whatever its type, and means nothing where none is open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flagai.errors import InputError

Offset = tuple[int, int]


@dataclass(frozen=True, order=True)
class Span:
    """A piece of text with a type.

    Args:
        start: its first character.
        end: its last character (inclusive).
        label: its type, such as "LOC".
    """

    start: int
    end: int
    label: str


def checked_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """The labels if there is one for each class of the model.

    Raises:
        InputError: there are more or fewer, or they are no texts.
    """
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"The labels are {labels!r}; expected a list of names, such as ['O', 'B-LOC', 'I-LOC'].")
    if len(labels) != classes:
        raise InputError(
            f"There are {len(labels)} labels, but the model knows {classes} classes: {list(labels)}. "
            "Name one label per class, in the order of training."
        )
    return tuple(labels)


def decode(
    path: Sequence[int], labels: Sequence[str], offsets: Sequence[Offset], inner: Sequence[bool] = ()
) -> list[Span]:
    """The entities that a row of labels means.

    Args:
        path: a label number per token.
        labels: the names of the labels; number 0 is no entity.
        offsets: each token's characters (start, end exclusive); (0, 0) or another empty range for special tokens.
        inner: which tokens continue a word; they never open a second entity of the type that is open.
    """
    found: list[tuple[int, int, str]] = []
    is_open = False
    for index, number in enumerate(path):
        if not number:
            is_open = False
        elif labels[number].startswith("B") and not (
            is_open and inner and inner[index] and labels[number][2:] == found[-1][2]
        ):
            found.append((index, index, labels[number][2:]))
            is_open = True
        elif is_open:
            first, _, label = found[-1]
            found[-1] = (first, index, label)
    return [span for entry in found if (span := characters(*entry, offsets)) is not None]


def characters(first: int, last: int, label: str, offsets: Sequence[Offset]) -> Span | None:
    """The span of characters from one token to another; None if one of them has no characters."""
    (start, start_end), (last_start, end) = offsets[first], offsets[last]
    if start == start_end or last_start == end:
        return None
    return Span(start, end - 1, label)


def encode(spans: Sequence[Span], labels: Sequence[str], offsets: Sequence[Offset]) -> list[int]:
    """The row of labels that says where entities are; those that do not fall on tokens are left out.

    Args:
        spans: the entities.
        labels: the names of the labels, with ``B-`` and ``I-`` forms.
        offsets: each token's characters, as in :func:`decode`.

    Raises:
        InputError: an entity has an unknown type.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    row = [0] * len(offsets)
    for span, first, last in on_tokens(spans, offsets):
        opening, inner = f"B-{span.label}", f"I-{span.label}"
        if opening not in numbers:
            raise InputError(f"There is no label {opening!r} for an entity. Known: {', '.join(labels)}.")
        row[first] = numbers[opening]
        row[first + 1 : last + 1] = [numbers.get(inner, numbers[opening])] * (last - first)
    return row


def on_tokens(spans: Sequence[Span], offsets: Sequence[Offset]) -> list[tuple[Span, int, int]]:
    """The spans that begin and end with a token, with the numbers of these tokens."""
    starts = {start: index for index, (start, end) in enumerate(offsets) if end > start}
    ends = {end - 1: index for index, (start, end) in enumerate(offsets) if end > start}
    return [(span, starts[span.start], ends[span.end]) for span in spans if span.start in starts and span.end in ends]
