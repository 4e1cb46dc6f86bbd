"""Labels in data: which there are, and what a record says."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flagai.data.prepare.labels import Span, decode
from flagai.data.prepare.scheme import LabelError
from flagai.errors import InputError
from flagai.train.records import Record

_NOTHING: Mapping[str, str] = MappingProxyType({})
# What int() reads at once; longer ones are names.
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
# Scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Han, kana, Bopomofo, Yi, full width.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u312f\u3190-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff00-\uff9f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff]"
)
# The share of single characters from which on tokens are characters of a text, not words.
_CHARACTERS = 0.8


def classes(records: Sequence[Record]) -> list[str]:
    """The names of the classes in the column ``label``, numbers in their order, other names by alphabet."""
    found = {_name(record) for record in records}
    if len(found) < 2:
        only = ", ".join(map(repr, found))
        raise InputError(f"All {len(records)} labels are {only}; there is nothing to tell apart. Add other examples.")
    return sorted(found, key=lambda name: (0, int(name), name) if _NUMBER.fullmatch(name) else (1, 0, name))


def class_number(record: Record, known: Sequence[str]) -> int:
    """The number of a record's class, or an InputError for an unknown one."""
    name = _name(record)
    if name not in known:
        raise _unknown(record, f"label {name!r}", known)
    return known.index(name)


def _unknown(record: Record, what: str, known: Sequence[str]) -> InputError:
    return InputError(
        f"{record.place}: the {what} is unknown; the training data has {', '.join(known)}. Correct it, or add examples "
        "of it to the training data."
    )


def _name(record: Record) -> str:
    value = record.value("label")
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"{record.place}: 'label' is {value!r}; expected a name or an integer.")
    return str(value).strip()


def tags_of(records: Sequence[Record]) -> dict[str, str]:
    """All different tags, which together tell the scheme that they are written in, and the place of each."""
    return {tag: record.place for record in reversed(records) for tag in record.strings("tags")}


def tagged(record: Record, known: Mapping[str, str] = _NOTHING) -> tuple[str, list[Span]]:
    """A text and its entities, from ``text`` or ``tokens`` and a tag for each character or token.

    Args:
        record: the record.
        known: the tags of the whole file, from :func:`tags_of`; by default the record's tags have to tell the scheme.

    Raises:
        InputError: the columns are absent, do not fit together, or a tag is of another form than the others.
    """
    tags = record.strings("tags")
    text, places, unit = _places(record)
    if len(places) != len(tags):
        raise InputError(f"{record.place}: {len(places)} {unit} have {len(tags)} tags. Give each one a tag.")
    names = sorted({*known, *tags})
    numbers = {name: number for number, name in enumerate(names)}
    try:
        spans = decode([numbers[tag] for tag in tags], names, places, collected=True)
    except LabelError as error:
        raise InputError(f"{known.get(error.label, record.place)}: {error}") from error
    trimmed = []
    for span in spans:  # blanks at the ends are in no token of a model
        words = text[span.start : span.end + 1]
        start = span.start + len(words) - len(words.lstrip())
        if words.strip():
            trimmed.append(Span(start, span.start + len(words.rstrip()) - 1, span.label))
    return text, trimmed


def _places(record: Record) -> tuple[str, list[tuple[int, int]], str]:
    """The text, the places that have tags, and what they are."""
    if "tokens" not in record.fields:
        text = record.text("text")
        return text, [(start, start + 1) for start in range(len(text))], "characters"
    tokens = record.strings("tokens")
    given = record.fields.get("text")
    places = _found_in(given, tokens) if isinstance(given, str) else None
    return (given, places, "tokens") if isinstance(given, str) and places else (*join_tokens(tokens), "tokens")


def entity_types(records: Sequence[Record], known: Mapping[str, str] = _NOTHING) -> list[str]:
    """The types of all entities, by alphabet; the known tags are as in :func:`tagged`."""
    found = sorted({span.label for record in records for span in tagged(record, known)[1]})
    if not found:
        raise InputError(f"No text from {records[0].place} on has an entity. Expected tags such as B-LOC and I-LOC.")
    return found


def check_types(record: Record, spans: Sequence[Span], types: Sequence[str]) -> None:
    """Refuse entities of types that the training data does not have, with an InputError."""
    for span in spans:
        if span.label not in types:
            raise _unknown(record, f"type {span.label!r}", types)


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
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


def _found_in(text: str, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
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
