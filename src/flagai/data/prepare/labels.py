"""Labels of tokens and the spans of text they mean, both ways: one decoder for inference, metrics and training data."""

from collections.abc import Sequence
from dataclasses import dataclass

from flagai.data.prepare.scheme import OUTSIDE, Tag, read_tags
from flagai.data.tokenizer.encoding import Offset
from flagai.errors import InputError


@dataclass(frozen=True, order=True)
class Span:
    """A piece of text with a type."""

    start: int  # its first character
    end: int  # its last character (inclusive)
    label: str  # its type, such as "LOC"


def checked_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """The labels if there is one for each class of the model."""
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"The labels are {labels!r:.80}; expected a list of names, such as ['O', 'B-LOC', 'I-LOC'].")
    if len(labels) != classes:
        raise InputError(
            f"There are {len(labels)} labels, but the model knows {classes} classes: {list(labels)}. "
            "Name one label per class, in the order of training."
        )
    return tuple(labels)


def decode(
    path: Sequence[int],
    labels: Sequence[str],
    offsets: Sequence[Offset],
    inner: Sequence[bool] = (),
    collected: bool = False,
) -> list[Span]:
    """The entities that a row of labels means, in any scheme, also where it breaks the scheme's rules.

    As in conlleval and seqeval, an entity begins with a label that says so, after "outside" or the end of another, and
    where the type changes; so "inside" begins one as well as "begin" does. Tokens without characters are passed over.

    Args:
        path: a label number per token.
        labels: the names of the labels; see :func:`flagai.data.prepare.scheme.read_tags`.
        offsets: each token's characters (start, end exclusive); (0, 0) or another empty range for special tokens.
        inner: which tokens continue a word; they never open a second entity of the type that ends before them.
        collected: the labels come from a data file.

    Raises:
        InputError: the labels cannot be read.
    """
    tags = read_tags(tuple(labels), collected)
    found: list[Span] = []
    before = OUTSIDE
    for index, (number, (start, end)) in enumerate(zip(path, offsets, strict=True)):
        if start == end:
            continue
        follows = tags[number].mark == "X"
        tag = before if follows else tags[number]
        if tag.mark != "O":
            goes_on = (before.mark in "BI" and tag.mark in "IE") or (
                bool(inner) and inner[index] and before.mark != "O"
            )
            if follows or (goes_on and tag.kind == before.kind):
                start = found.pop().start
            found.append(Span(start, end - 1, tag.kind))
        before = tag
    return found


def characters(first: int, last: int, label: str, offsets: Sequence[Offset]) -> Span | None:
    """The span of characters from one token to another; None if one of them has no characters."""
    (start, start_end), (last_start, end) = offsets[first], offsets[last]
    if start == start_end or last_start == end:
        return None
    return Span(start, end - 1, label)


def encode(spans: Sequence[Span], labels: Sequence[str], offsets: Sequence[Offset]) -> list[int]:
    """The row of labels, in any scheme, that says where entities are; those that do not fall on tokens are left out.

    Raises:
        InputError: an entity has an unknown type, or no label means "outside".
    """
    tags = read_tags(tuple(labels))
    numbers = {tag: number for number, tag in reversed(list(enumerate(tags)))}
    if OUTSIDE not in numbers:
        raise InputError(f"No label is for tokens outside of entities. Add 'O'; found {list(labels)}.")
    row = [list(labels).index("O") if "O" in labels else numbers[OUTSIDE]] * len(offsets)
    for span, first, last in on_tokens(spans, offsets):
        for index in range(first, last + 1):
            wanted = "SBIE" if first == last else "BISE" if index == first else "EIBS" if index == last else "IBES"
            known = [numbers[tag] for mark in wanted if (tag := Tag(mark, span.label)) in numbers]
            if not known:
                raise InputError(f"There is no label for an entity of type {span.label!r}. Known: {', '.join(labels)}.")
            row[index] = known[0]
    return row


def on_tokens(spans: Sequence[Span], offsets: Sequence[Offset]) -> list[tuple[Span, int, int]]:
    """The spans that begin and end with a token, with the numbers of these tokens."""
    starts = {start: index for index, (start, end) in enumerate(offsets) if end > start}
    ends = {end - 1: index for index, (start, end) in enumerate(offsets) if end > start}
    return [(span, starts[span.start], ends[span.end]) for span in spans if span.start in starts and span.end in ends]
