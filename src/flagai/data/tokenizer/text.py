"""Text before and after: what may come in, and how pieces become a text that one can read."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping

from flagai.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")
# Han, kana, Hangul, full-width forms and their punctuation are written without spaces between them.
_WITHOUT_SPACES = re.compile(
    "[\u1100-\u11ff\u2010-\u2027\u2030-\u205e\u2e80-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)
_HAN = re.compile("[\u4e00-\u9fff]")
_HAN_WORD = re.compile("[\u4e00-\u9fff]{2,}")
_CLOSES = frozenset(",.;:!?)]}%")  # no space before, one after if a word follows
_OPENS = frozenset("([{$")  # one space before if a word precedes, none after
_IN_NUMBERS = frozenset(",.:")
_CONTINUES = "##"
_CLEANED = {f" {mark}": mark for mark in (".", "?", "!", ",")}
_CLEANED |= {" ' ": "'"} | {f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")}


def clean(texts: Iterable[str]) -> list[str]:
    """Check texts, and put U+FFFD in place of lone surrogates, which no encoding of text can hold."""
    if isinstance(texts, str):
        raise InputError("A batch is a list of texts; put the single one into a list.")
    try:
        texts = list(texts)
    except TypeError as error:
        raise InputError(f"Expected a list of texts, but found {texts!r:.80}.") from error
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {index} is of type {type(text).__name__}, not str. Give texts only.")
    return [text if text.isascii() else _SURROGATE.sub("\ufffd", text) for text in texts]


def join_english(tokens: Iterable[str]) -> str:
    """Join WordPiece tokens with spaces, gluing ``##``; at the beginning there is nothing to glue it to."""
    text = " ".join(tokens).replace(f" {_CONTINUES}", "").strip()
    return text.removeprefix(_CONTINUES) if len(text) > len(_CONTINUES) else text


def join_chinese(tokens: Iterable[str]) -> str:
    """Join WordPiece tokens as Chinese is written: spaces only where two words of another script meet.

    English in between is written as usual: no space before a closing punctuation mark, one after it.
    """
    pieces: list[str] = []
    end = ""  # the last two characters
    for token in tokens:
        glued = token.startswith(_CONTINUES) and len(token) > len(_CONTINUES)
        piece = token.removeprefix(_CONTINUES) if glued else token
        if not piece:
            continue
        command = piece[0] == "[" and piece[-1] == "]" and len(piece) > 1
        if not glued and not command and end and parted(end, piece):
            pieces.append(" ")
        pieces.append(piece)
        end = "" if command else (end + piece)[-2:]
    return "".join(pieces)


def cleaned(text: str) -> str:
    """An English text without the spaces before punctuation, as transformers' ``clean_up_tokenization_spaces``."""
    for written, wanted in _CLEANED.items():
        text = text.replace(written, wanted)
    return text


def is_chinese(vocabulary: Collection[str]) -> bool:
    """Whether a vocabulary is that of a Chinese model: one token in eight has a Han character, or more."""
    return sum(_HAN.search(token) is not None for token in vocabulary) * 8 >= len(vocabulary)


def without_spaces(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces."""
    return _WITHOUT_SPACES.match(character) is not None


def has_words(vocabulary: Collection[str]) -> bool:
    """Whether a vocabulary has Chinese words of several characters: one token in eight is one, or more."""
    return sum(_HAN_WORD.fullmatch(token) is not None for token in vocabulary) * 8 >= len(vocabulary)


def parted(left: str, right: str) -> bool:
    """Whether a space belongs between the end of a text (two characters suffice) and the token that follows."""
    last, first = left[-1], right[0]
    command_follows = first == "[" and right[-1] == "]" and len(right) > 1
    if command_follows and last == "]":
        return False
    if _WITHOUT_SPACES.match(last) or _WITHOUT_SPACES.match(first):
        return False
    word_follows = _is_word(first) or command_follows
    if last in _CLOSES:
        number = last in _IN_NUMBERS and left[-2:-1].isdigit() and first.isdigit()
        return (word_follows or first in _OPENS) and not number
    return _is_word(last) and (word_follows or first in _OPENS)


def inside_words(text: str, offsets: Iterable[tuple[int, int]]) -> list[bool]:
    """Which tokens continue a word: letters and digits without a space before them; a Han character is a word alone."""
    found, before = [], 0
    for start, end in offsets:
        touching = start == before and all(map(_goes_on, text[max(0, start - 1) : start + 1]))
        found.append((start > 0 and touching) or start < before)  # or a further byte of one character
        before = max(before, end)
    return found


def _goes_on(character: str) -> bool:
    return _is_word(character) and _HAN.match(character) is None


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


# -- what tokens write, as bytes: the same however a text is cut into tokens -----------------------------------------

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_SPACE = "▁"  # SentencePiece's


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in GPT-2's vocabulary: printable ones for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()
BYTE_LETTERS = {byte: letter for letter, byte in _ALPHABET.items()}


def piece_of(token: str, kind: str) -> bytes:
    """What a token writes."""
    if kind in ("bpe", "tiktoken"):
        known = all(char in _ALPHABET for char in token)
        return bytes(_ALPHABET[char] for char in token) if known else token.encode()
    if kind == "wordpiece":
        inside = token.startswith(_CONTINUES) and len(token) > len(_CONTINUES)
        return (token.removeprefix(_CONTINUES) if inside else spaced(token)).encode()
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte is not None else token.replace(_SPACE, " ").encode()


def spaced(word: str) -> str:
    """A word as WordPiece writes it: after a space, but for scripts without spaces."""
    return word if not word or without_spaces(word[0]) else f" {word}"


def token_bytes(
    vocabulary: Mapping[str, int], plain: Mapping[int, str], silent: frozenset[int], kind: str
) -> list[bytes]:
    """What each token of a vocabulary writes, by its id: added ``plain`` ones themselves, ``silent`` ones nothing."""
    written = {number: piece_of(token, kind) for token, number in vocabulary.items()}
    written |= {number: token.encode() for number, token in plain.items()} | dict.fromkeys(silent, b"")
    return [written.get(number, b"") for number in range(max([*vocabulary.values(), *plain, -1]) + 1)]
