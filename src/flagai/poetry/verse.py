"""The rules as data: forms, patterns of tones, rhymes, and how often characters recur.

Source: the patterns are those of the textbooks (Wang Li 1977, 《诗词格律》), a little wider where poets are; tones,
rhymes and limits are learned from poems, see ``data.json``.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from flagai.data.prepare.poem import PoemForm

LEVEL, OBLIQUE, EITHER = "平", "仄", "中"
# A place for a rhyme, or for any character at all.
RHYME, ANY = "韵", "字"
COMMA, PERIOD = "，", "。"
# The four lines of five characters. A place in 中 takes either tone; elsewhere a line could end on three level tones,
# or have one level tone between oblique ones. A line of seven characters has two more in front, of the other tone.
_LINES = {"a": "中仄中平仄", "b": "平平中仄韵", "c": "中平平仄仄", "d": "中仄仄平韵"}
_BEFORE = {"a": "中平", "b": "中仄", "c": "中仄", "d": "中平"}
# A poem begins with any of the lines; its first line rhymes if it ends on a level tone (b and d).
_POEMS = ("abcdabcd", "cdabcdab", "dbcdabcd", "bdabcdab")


@dataclass(frozen=True)
class Form:
    """A form of poems.

    Args:
        width: the characters of a line.
        lines: how many.
        uses: the most uses of a character.
        again: how often a character may come that was there before.
        doubled: how often a character may follow itself (潇潇), which does not count as ``again``.
    """

    width: int
    lines: int
    uses: int
    again: int
    doubled: int

    def patterns(self, *, strict: bool) -> list[str]:
        """What may stand at each place, punctuation included: 平 仄 中 韵 字 or a mark; one text for each pattern.

        Args:
            strict: with tones and rhymes; without, there is one pattern of any characters.
        """
        if not strict:
            return [self._joined([ANY * self.width] * self.lines)]
        return [
            self._joined([(_BEFORE[kind] if self.width == 7 else "") + _LINES[kind] for kind in kinds[: self.lines]])
            for kinds in _POEMS
        ]

    @staticmethod
    def _joined(lines: Sequence[str]) -> str:
        return "".join(line + (PERIOD if number % 2 else COMMA) for number, line in enumerate(lines))


@dataclass(frozen=True)
class PoemData:
    """What the rules are made of.

    Args:
        forms: form -> its sizes and limits.
        tones: character -> 平, 仄 or 中 (either).
        rhymes: the name of each rhyme -> its characters.
    """

    forms: Mapping[PoemForm, Form]
    tones: Mapping[str, str]
    rhymes: Mapping[str, str]

    def rhymes_of(self, character: str) -> frozenset[str]:
        """The names of the rhymes of a character; several where it has several readings."""
        return frozenset(name for name, characters in self.rhymes.items() if character in characters)


def is_chinese(character: str) -> bool:
    """Whether this is a Chinese character."""
    return "㐀" <= character <= "鿿" or "𠀀" <= character <= "𳑿"


@functools.cache
def poem_data() -> PoemData:
    """The data that come with the package."""
    found = json.loads(resources.files(__package__).joinpath("data.json").read_text(encoding="utf-8"))
    tones = {character: tone for tone, characters in found["tones"].items() for character in characters}
    sizes = {
        PoemForm.five_quatrain: (5, 4),
        PoemForm.seven_quatrain: (7, 4),
        PoemForm.five_regulated: (5, 8),
        PoemForm.seven_regulated: (7, 8),
    }
    forms = {form: Form(width, lines, **found["limits"][form]) for form, (width, lines) in sizes.items()}
    return PoemData(forms, tones, found["rhymes"])
