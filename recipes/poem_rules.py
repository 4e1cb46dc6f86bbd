"""Whether a classical Chinese poem is well made: form, tones, rhyme, and lines that stand in another collection."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

FORMS = {"五言绝句": (4, 5), "七言绝句": (4, 7), "五言律诗": (8, 5), "七言律诗": (8, 7)}
_MARKS = "，。！？；、,.!?;"
_EITHER = "中"
_OBLIQUE = "仄"
_THRICE = 3


def lines(poem: str) -> list[str]:
    """The lines of a poem without punctuation."""
    return [line for line in re.split(f"[{_MARKS}\\s]", poem) if line]


def keeps_form(poem: str, form: str) -> bool:
    """Whether a poem has exactly the lines of its form, each ended by ，and 。 in turns."""
    count, width = FORMS[form]
    verse = f"[^{_MARKS}\\s]{{{width}}}"
    return re.fullmatch(f"(?:{verse}，{verse}。){{{count // 2}}}", poem) is not None


def couplets(poem: str) -> list[tuple[str, str]]:
    """Pairs of lines of equal length."""
    found = lines(poem)
    return [
        (first, second) for first, second in zip(found[::2], found[1::2], strict=False) if len(first) == len(second)
    ]


def keeps_tones(first: str, second: str, tones: Mapping[str, str]) -> bool:
    """Whether a couplet keeps the rule of the second, fourth and sixth character and ends on a level tone.

    The tones of these characters alternate in each line and are opposed between both lines. A character of either
    tone, or of an unknown one, fits everywhere.

    Args:
        first: a line.
        second: the line that answers it.
        tones: character -> 平, 仄 or 中 (either).
    """

    def differ(one: str, other: str) -> bool:
        pair = (tones.get(one, _EITHER), tones.get(other, _EITHER))
        return _EITHER in pair or pair[0] != pair[1]

    places = range(1, len(first) - 1, 2)
    inside = all(differ(line[place], line[place + 2]) for line in (first, second) for place in places[:-1])
    across = all(differ(first[place], second[place]) for place in places)
    return inside and across and tones.get(second[-1], _EITHER) != _OBLIQUE


def rhyming_pairs(poem: str) -> list[tuple[str, str]]:
    """The last characters of neighbouring even lines, which should rhyme."""
    ends = [line[-1] for line in lines(poem)[1::2]]
    return [(min(pair), max(pair)) for pair in itertools.pairwise(ends)]


class Collection:
    """What is known from a collection of poems: its lines, and which characters rhyme in it.

    Two characters rhyme if at least two poems rhyme them: no dictionary of rhymes is needed, and the share of rhymes
    that held-out poems reach by this measure is the yardstick for others.

    Args:
        poems: the poems.
    """

    def __init__(self, poems: Iterable[str]) -> None:
        pairs: Counter[tuple[str, str]] = Counter()
        self.lines: set[str] = set()
        for poem in poems:
            pairs.update(rhyming_pairs(poem))
            self.lines.update(lines(poem))
        self.rhymes = {pair for pair, count in pairs.items() if count >= 2}

    def keeps_all(self, poem: str, form: str, tones: Mapping[str, str]) -> bool:
        """Whether a poem keeps its form, rhymes, keeps the tones and uses no character three times.

        Args:
            poem: the poem.
            form: its form.
            tones: see :func:`keeps_tones`.
        """
        return (
            keeps_form(poem, form)
            and all(pair in self.rhymes and pair[0] != pair[1] for pair in rhyming_pairs(poem))
            and all(keeps_tones(*couplet, tones) for couplet in couplets(poem))
            and _most(poem) < _THRICE
        )

    def measure(self, poems: Sequence[str], forms: Sequence[str], tones: Mapping[str, str]) -> dict[str, float]:
        """Shares of poems that keep their form, couplets with right tones, pairs that rhyme, and lines from here.

        Args:
            poems: the poems.
            forms: the form that each should have.
            tones: see :func:`keeps_tones`.
        """
        pairs = [pair for poem in poems for pair in rhyming_pairs(poem)]
        verses = [line for poem in poems for line in lines(poem)]
        # Five-character quatrains are often in the old style, which has no rule of tones.
        verdicts = {
            width: [
                keeps_tones(*couplet, tones)
                for poem, form in zip(poems, forms, strict=True)
                for couplet in couplets(poem)
                if FORMS[form][1] == width
            ]
            for width in (5, 7)
        }
        return {
            "form": share(keeps_form(poem, form) for poem, form in zip(poems, forms, strict=True)),
            "rhyme": share(pair in self.rhymes and pair[0] != pair[1] for pair in pairs),
            "tones_five_characters": share(verdicts[5]),
            "tones_seven_characters": share(verdicts[7]),
            "copied_lines": share(line in self.lines for line in verses),
            "poems_with_a_line_twice": share(len(set(lines(poem))) < len(lines(poem)) for poem in poems),
            "poems_with_a_character_thrice": share(_most(poem) >= _THRICE for poem in poems),
            "poems_with_neighbouring_doubles": share(
                any(first == second for line in lines(poem) for first, second in itertools.pairwise(line))
                for poem in poems
            ),
        }


def _most(poem: str) -> int:
    """How often the most frequent character is used."""
    return max(Counter("".join(lines(poem))).values(), default=0)


def share(verdicts: Iterable[bool]) -> float:
    """The share of true ones; 0 if there are none."""
    found = list(verdicts)
    return round(sum(found) / len(found), 4) if found else 0.0
