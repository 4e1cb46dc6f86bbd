"""What tokens write, as bytes: the same for every way to cut a text into tokens."""

import re
from collections.abc import Mapping

from flagai.data.tokenizer.text import without_spaces

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_CONTINUES, _BLANK = "##", "▁"


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in GPT-2's vocabulary: printable ones for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def piece_of(token: str, kind: str) -> bytes:
    """What a token writes.

    Args:
        token: the token.
        kind: the tokenizer's kind.
    """
    if kind == "bpe":
        known = all(char in _ALPHABET for char in token)
        return bytes(_ALPHABET[char] for char in token) if known else token.encode()
    if kind == "wordpiece":
        inside = token.startswith(_CONTINUES) and len(token) > len(_CONTINUES)
        return (token.removeprefix(_CONTINUES) if inside else spaced(token)).encode()
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte is not None else token.replace(_BLANK, " ").encode()


def spaced(word: str) -> str:
    """A word as WordPiece writes it: after a blank, but for scripts without blanks."""
    return word if not word or without_spaces(word[0]) else f" {word}"


def pieces(vocabulary: Mapping[str, int], plain: Mapping[int, str], silent: frozenset[int], kind: str) -> list[bytes]:
    """What each token of a vocabulary writes, by its id.

    Args:
        vocabulary: the tokens.
        plain: added tokens, which are written as they are.
        silent: special tokens, which answers leave out.
        kind: the tokenizer's kind.
    """
    found = [b""] * (max([*vocabulary.values(), *plain, -1]) + 1)
    for token, number in vocabulary.items():
        found[number] = piece_of(token, kind)
    for number, token in plain.items():
        found[number] = token.encode()
    for number in silent:
        if number < len(found):
            found[number] = b""
    return found
