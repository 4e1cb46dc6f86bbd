"""Texts made of tokens: where a blank belongs depends on the script."""

import re
import unicodedata
from collections.abc import Sequence

Places = list[tuple[int, int]]

# Scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Han, kana, Bopomofo, Yi, full width.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u312f\u3190-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff00-\uff9f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff]"
)
# The share of single characters from which on tokens are characters of a text, not words.
_CHARACTERS = 0.8


def joined(tokens: Sequence[str]) -> tuple[str, Places]:
    """A text made of tokens, and the place (start, end) of each in it.

    Words of letters and digits get a blank between them if their scripts use blanks (Latin, Cyrillic, Arabic, Hangul,
    not Han, kana, Thai). A text cut into single characters gets none, if some are of those scripts or are blanks.
    """
    spaced = not _is_cut_into_characters(tokens)
    text = ""
    places = []
    for token in tokens:
        if spaced and text and _is_word(text[-1]) and _is_word(token[0]):
            text += " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def found_in(text: str, tokens: Sequence[str]) -> Places | None:
    """The places of tokens in a text that consists of them and blanks; None if it does not."""
    places = []
    end = 0
    for token in tokens:
        start = text.find(token, end)
        if start < 0 or text[end:start].strip():
            return None
        end = start + len(token)
        places.append((start, end))
    return None if text[end:].strip() else places


def _is_cut_into_characters(tokens: Sequence[str]) -> bool:
    single = [token for token in tokens if len(token) == 1]
    if len(single) < _CHARACTERS * len(tokens):
        return False
    return any(token.isspace() or _UNSPACED.match(token) for token in single)


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" and not _UNSPACED.match(character)
