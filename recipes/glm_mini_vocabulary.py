"""The vocabulary of GLM-mini-ch."""

import re
from collections import Counter
from collections.abc import Sequence

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary(texts: Sequence[str]) -> list[str]:
    """A WordPiece vocabulary of characters, of letters and digits inside words, and of frequent Latin words.

    Args:
        texts: all texts of the training part.
    """
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in texts:
        lower = text.lower()
        characters.update(lower)
        words.update(re.findall("[a-z]{2,}", lower))
    kept = [character for character, count in characters.most_common() if count >= 2 and not character.isspace()]
    plain = sorted({*kept, *"abcdefghijklmnopqrstuvwxyz0123456789"})
    inner = [f"##{character}" for character in plain if not _stands_alone(character)]
    frequent = [word for word, count in words.most_common(400) if count >= 8]
    return list(dict.fromkeys([*SPECIAL, *plain, *inner, *sorted(frequent)]))


def _stands_alone(character: str) -> bool:
    """Han characters and punctuation are words of their own."""
    return is_han(character) or not character.isalnum()


def is_han(text: str) -> bool:
    """Whether a text is one Han character."""
    return len(text) == 1 and "\u3400" <= text <= "\u9fff"
