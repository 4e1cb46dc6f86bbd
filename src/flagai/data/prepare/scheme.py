"""Tagging schemes: what the labels of a list say, whatever way they are written.

IOB1, IOB2, BIOES, BMES and BILOU differ in their marks; the mark stands before or after the type (B-LOC, B_LOC, LOC-B),
alone (B, I, O), or nowhere (LOC). The whole list tells which of these it is; one label would not: ``E-MAIL`` beside
``URL`` is a type, beside ``B-MAIL`` the end of one.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from flagai.errors import InputError

# The type where labels are marks alone; seqeval's name.
UNNAMED = "_"
# Every mark, as one of those that entities are read by: begin, inside, end, single.
_MARKS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_OUTSIDE = {"o", "0", "out", "outside", "none", "null", "nil", "no-entity", "no_entity", "non-entity", "non_entity"}
_OUTSIDE |= {"", "-", "_", "pad", "cls", "sep", "无", "非实体"}
# Names that mean "outside" if the list has no better one.
_REST = {"other", "others", "其他", "其它"}
_SPECIAL = re.compile(r"\[.*\]|<.*>", re.DOTALL)
_NUMBER = re.compile(r"(LABEL_)?[0-9]+")
_BRACKETS = re.compile(r"\([^()*]*\*?\)?|\*\)?")
_NO_TYPE = re.compile(r"[BIMELSUW][-_]|[-_][BIMELSUW]")


class Tag(NamedTuple):
    """What a label says of its token."""

    mark: str  # "B", "I", "E", "S" (begin, inside, end, single), "O" (outside), or "X" (as the token before it)
    kind: str  # the entity's type


OUTSIDE = Tag("O", "")


class LabelError(InputError):
    """A label that cannot be read, and why."""

    def __init__(self, label: str, why: str) -> None:
        super().__init__(f"The label {label!r} {why}")
        self.label = label


@dataclass(frozen=True)
class _Style:
    """A way to write labels."""

    separator: str  # what stands between mark and type
    first: bool = True  # the mark comes first
    lower: bool = False  # the mark is a small letter
    # Most labels, or two marks of one type, are enough to know it; rarer ways need all labels, and B and I.
    certain: bool = False

    def split(self, label: str) -> tuple[str, str] | None:
        """The mark, as a capital, and the type; None if the label is not written like this."""
        if self.first:
            mark, _, kind = label.partition(self.separator)
        else:
            kind, _, mark = label.rpartition(self.separator)
        right = kind and mark.islower() is self.lower and mark.upper() in _MARKS
        return (mark.upper(), kind) if right else None

    def fits(self, found: Sequence[tuple[str, str]], count: int) -> bool:
        """Whether a list is written like this: of ``count`` labels that are not outside, :meth:`split` read these."""
        marks = {mark for mark, _ in found}
        if not self.certain:
            return len(found) == count and "B" in marks and bool(marks & {"I", "M"})
        kinds = Counter(kind for _, kind in set(found))
        opens = bool(marks & {"B", "I"}) or marks <= {"S", "U", "W"}
        return opens and (2 * len(found) > count or max(kinds.values(), default=0) > 1)


_STYLES = (
    *(_Style(separator, certain=separator in "-_") for separator in "-_:/|."),
    *(_Style(separator, lower=True) for separator in "-_"),
    *(_Style(separator, first=False) for separator in "-_:/|"),
    *(_Style(separator, first=False, lower=True) for separator in "-_"),
)


@lru_cache(maxsize=1024)
def read_tags(labels: tuple[str, ...], collected: bool = False) -> tuple[Tag, ...]:
    """What each of a model's labels says, in order, or of those ``collected`` from a data file, in any order.

    Raises:
        LabelError: a label has a mark but no type, or (if collected) another form than the others.
    """
    outside = _outside(labels)
    names = list(dict.fromkeys(label for label in labels if label not in outside))
    for name in names:
        if _NO_TYPE.fullmatch(name) or (collected and _BRACKETS.fullmatch(name)):
            raise LabelError(name, f"is none of {_FORMS}. Correct or convert it.")
    read = _bare(names) or _marked(names, collected)
    if not read and collected and names and all(_STYLES[0].split(name) for name in names):
        raise LabelError(names[0], f"ends or continues an entity that no label begins; expected {_FORMS}.")
    read = read or {name: Tag("I", name) for name in names}
    if "X" in names and read.get("X") != Tag("I", "X"):
        read["X"] = Tag("X", "")  # pieces of words in models that label the first piece alone
    return _checked(labels, outside, read, collected)


_FORMS = "O, B-TYPE, I-TYPE (or E-, S-, M-, L-, U-TYPE)"


def _checked(labels: tuple[str, ...], outside: set[str], read: dict[str, Tag], collected: bool) -> tuple[Tag, ...]:
    """The tags of all labels, where some may have another form than most."""
    strange = [label for label in labels if label not in outside and label not in read]
    if collected and strange:
        raise LabelError(strange[0], f"is none of {_FORMS}, as others of the data are. Correct it.")
    numbers = all(_NUMBER.fullmatch(label) for label in labels)
    if not collected and not outside and labels and (labels[0] in strange or numbers):
        outside = {labels[0]}  # the first label is "outside" in FlagAI, whatever its name
    return tuple(OUTSIDE if label in outside else read.get(label, Tag("I", label)) for label in labels)


def _outside(labels: Sequence[str]) -> set[str]:
    """The labels of tokens that are in no entity."""
    sure = {label for label in labels if label.strip().lower() in _OUTSIDE or _SPECIAL.fullmatch(label)}
    return sure or {label for label in labels if label.lower() in _REST}


def _bare(names: Sequence[str]) -> dict[str, Tag] | None:
    """The tags of labels that are marks without types."""
    marks = {name: _MARKS.get(name) for name in names if name != "X"}
    if "B" not in marks or None in marks.values():
        return None
    return {name: Tag(mark, UNNAMED) for name, mark in marks.items() if mark}


def _marked(names: Sequence[str], collected: bool) -> dict[str, Tag] | None:
    """The tags of labels with a mark and a type, if there are such; others of the list are left out."""
    ways = [{name: found for name in names if (found := style.split(name))} for style in _STYLES]
    count = len([name for name in names if name != "X"])
    right = [way for way, style in zip(ways, _STYLES, strict=True) if style.fits(list(way.values()), count)]
    if not right:
        return None
    best = max(right, key=len)
    # E-MAIL is a type if no other type has an end, and no other label is of MAIL.
    alone = {"E", "L", "M"} if collected else {"E", "L", "M", "S", "U", "W"}
    marks, kinds = (Counter(part) for part in zip(*best.values(), strict=True))
    kept = {
        name: found for name, found in best.items() if found[0] not in alone or marks[found[0]] + kinds[found[1]] > 2
    }
    return {name: Tag(_MARKS[mark], kind) for name, (mark, kind) in kept.items()}
