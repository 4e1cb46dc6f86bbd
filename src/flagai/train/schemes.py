"""Tagging schemes of data: detected or named, and tags that their rules do not allow, by line."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from flagai.data.prepare.scheme import OUTSIDE, Tag, read_tags
from flagai.errors import InputError
from flagai.train.recipe import TAG_SCHEMES
from flagai.train.records import Record

logger = logging.getLogger(__name__)

_SHOWN = 3  # lines of a warning
# Whether a tag may follow another one; the end of a text is as a tag outside.
_Rule = Callable[[Tag, Tag], bool]


def _inside(before: Tag, tag: Tag) -> bool:
    return before.mark in "BI" and before.kind == tag.kind


def _iob1(before: Tag, tag: Tag) -> bool:
    return tag.mark != "B" or _inside(before, tag)


def _iob2(before: Tag, tag: Tag) -> bool:
    return tag.mark != "I" or _inside(before, tag)


def _iobes(before: Tag, tag: Tag) -> bool:
    goes_on = tag.mark in "IE"
    return (before.mark in "BI") == goes_on and (not goes_on or before.kind == tag.kind)


_RULES: Mapping[str, _Rule] = {
    TAG_SCHEMES[0]: _iob1,
    **dict.fromkeys(TAG_SCHEMES[1:3], _iob2),
    **dict.fromkeys(TAG_SCHEMES[3:], _iobes),
}


def check_scheme(records: Sequence[Record], tags: Sequence[str], name: str | None = None) -> None:
    """Look for tags that the scheme of the data does not allow.

    Entities are read by conlleval's rules in any case. If the scheme was detected, a warning says what breaks it.

    Args:
        records: rows with ``tags``.
        tags: all tags of the data, which together tell their form.
        name: the scheme, one of :data:`flagai.train.recipe.TAG_SCHEMES`; default the one that fits best.

    Raises:
        InputError: the scheme is named, and a tag breaks it.
    """
    known = dict(zip(tags, read_tags(tuple(tags), True), strict=True))
    if name is not None:
        for broken in _broken(records, known, _RULES[name.upper()]):
            raise InputError(f"{broken}, which {name} does not allow. Correct it, or name another scheme.")
        return
    marks = {tag.mark for tag in known.values()}
    fitting = ("IOBES",) if marks & {"E", "S"} else ("IOB2", "IOB1") if "B" in marks else ()
    found = {scheme: list(_broken(records, known, _RULES[scheme])) for scheme in fitting}
    best = min(found, key=lambda scheme: len(found[scheme]), default=None)
    if best is not None and found[best]:
        logger.warning(
            "The tags are %s, but %d of them break it, and are read as conlleval does: %s%s.",
            *(best, len(found[best]), "; ".join(found[best][:_SHOWN]), "; ..." if found[best][_SHOWN:] else ""),
        )


def _broken(records: Sequence[Record], known: Mapping[str, Tag], rule: _Rule) -> Iterator[str]:
    """Places of tags that a rule does not allow, and what is there."""
    for record in records:
        names = record.strings("tags")
        before, last = OUTSIDE, "the beginning"
        for index, name in enumerate([*names, ""]):
            tag = known[name] if index < len(names) else OUTSIDE
            if tag.mark == "X":
                continue
            if not rule(before, tag):
                yield f"{record.line_of(min(index, len(names) - 1))}: {name or 'the end'} after {last}"
            before, last = tag, name
