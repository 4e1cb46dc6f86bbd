"""Which rules a poem breaks: the same rules as the processor's, read from a whole poem."""

from collections import Counter
from itertools import pairwise

from flagai.data.prepare.poem import PoemForm
from flagai.errors import InputError
from flagai.poetry.verse import ANY, COMMA, EITHER, LEVEL, OBLIQUE, PERIOD, RHYME, Form, PoemData, is_chinese, poem_data

_FITS = {EITHER: {LEVEL, OBLIQUE, EITHER}, LEVEL: {LEVEL, EITHER}, OBLIQUE: {OBLIQUE, EITHER}, RHYME: {LEVEL, EITHER}}


def faults(poem: str, form: str, *, strict: bool = True) -> list[str]:
    """Which rules a poem breaks.

    Args:
        poem: the poem, with its punctuation.
        form: 五言绝句, 七言绝句, 五言律诗 or 七言律诗.
        strict: look at tones and rhymes, too.

    Returns:
        Some of "form", "tones", "rhyme" and "repetition"; none for a poem that keeps all.

    Raises:
        InputError: there is no such form, or the poem is not text.

    Example:
        >>> faults("白日依山尽，黄河入海流。欲穷千里目，更上一层楼。", "五言绝句")
        []
    """
    if not isinstance(poem, str):
        raise InputError(f"The poem is {poem!r:.60}; expected a text.")
    if form not in set(PoemForm):
        raise InputError(f"{form!r:.60} is not a form of a poem. Known: {', '.join(PoemForm)}.")
    data, poem = poem_data(), poem.replace(",", COMMA)  # as some vocabularies write it
    shape = data.forms[PoemForm(form)]
    (plain,) = shape.patterns(strict=False)
    if len(poem) != len(plain) or not all(
        is_chinese(place) if mark == ANY else place == mark for place, mark in zip(poem, plain, strict=True)
    ):
        return ["form"]
    found = [] if not strict else _faults_of_sound(poem, shape.patterns(strict=True), data)
    return found + ([] if _is_varied(poem, shape) else ["repetition"])


def _faults_of_sound(poem: str, patterns: list[str], data: PoemData) -> list[str]:
    kept = [
        pattern
        for pattern in patterns
        if all(
            data.tones.get(character) in _FITS[place]
            for character, place in zip(poem, pattern, strict=True)
            if place in _FITS
        )
    ]
    # Without a pattern, only the even lines must rhyme.
    ends = [
        [character for character, place in zip(poem, pattern, strict=True) if place == RHYME]
        for pattern in kept or patterns[:1]
    ]
    rhymes = any(
        len(set(own)) == len(own) and frozenset.intersection(*(data.rhymes_of(character) for character in own))
        for own in ends
    )
    return ([] if kept else ["tones"]) + ([] if rhymes else ["rhyme"])


def _is_varied(poem: str, form: Form) -> bool:
    """Whether no character is used too often."""
    counts = Counter(character for character in poem if character not in f"{COMMA}{PERIOD}")
    doubled = sum(one == other for one, other in pairwise(poem))
    again = sum(counts.values()) - len(counts) - doubled
    return max(counts.values()) <= form.uses and again <= form.again and doubled <= form.doubled
