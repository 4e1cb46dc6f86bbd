"""Tokens that transformers' files add to a vocabulary, and which meanings they name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from flagai.errors import VocabularyError
from flagai.typed_json import Fields, as_int

NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class Added:
    """A token that is cut out of texts as it is."""

    content: str  # its text
    lstrip: bool = False  # whether it takes the spaces before it
    rstrip: bool = False  # whether it takes the spaces after it
    single_word: bool = False  # whether it is found between other words only
    normalized: bool = False  # whether it is looked for in the normalized text
    special: bool = True  # whether it is a special token, which decoding can leave out
    # Whether a file writes it as a text; as an object with the same flags it counts as another entry, and of several
    # entries for one token the last one holds.
    bare: bool = False

    @classmethod
    def read(cls, value: Any, place: str, *, special: bool) -> Self:
        """Read a text or an object, ``special`` where it does not say; ``place`` is the file and the field."""
        if isinstance(value, str) and value:
            return cls(value, bare=True)
        if not isinstance(value, dict):
            raise VocabularyError(f"{place}: {value!r:.80} is no token. Write its text, or an object with 'content'.")
        fields = Fields(value, place, VocabularyError)
        special = fields.flag("special", special)
        content = fields.text("content", "") or fields.wrong("content", "the text of a token")
        flags = {name: fields.flag(name, False) for name in ("lstrip", "rstrip", "single_word")}
        return cls(content, normalized=fields.flag("normalized", not special), special=special, **flags)


class Stated(NamedTuple):
    """An id that a file states for a token."""

    place: str  # the file
    content: str
    number: int


@dataclass(frozen=True)
class AddedTokens:
    """The tokens that the files beside a vocabulary add to it."""

    by_id: Mapping[int, Added] = field(default_factory=dict)  # added tokens by their ids
    # Those with one of the meanings `NAMED`, or with a name of the model's own; None where a file says that there is
    # none.
    named: Mapping[str, Added | None] = field(default_factory=dict)
    extra: tuple[Added, ...] | None = None  # further special tokens; None where no file lists them
    additional: tuple[Added, ...] | None = None  # what is in the place of `extra` in older files
    stated: tuple[Stated, ...] = ()  # every id that some file states, whether or not it is used


def read_added(options: Fields, special_map: Fields, added: Fields, pipeline: Fields) -> AddedTokens:
    """Join tokenizer_config.json, special_tokens_map.json, added_tokens.json and tokenizer.json as transformers does.

    ``added_tokens_decoder`` of the first replaces the lists of all others.
    """
    decoder = added_tokens_decoder(options)
    listed = listed_tokens(pipeline)
    legacy = _legacy(options, special_map)
    named, extra = named_tokens(options, special_map), _extra(options, legacy)
    special = {token.content for token in (*named.values(), *(extra["extra"] or ())) if token is not None}
    plain = {
        _id(number, added, content): Added(content, normalized=content not in special, special=content in special)
        for content, number in added.table.items()
    }
    # GLM's [gMASK] and <|endofpiece|> may share an id, so not by ids.
    own = [Stated(added.place, content, _id(number, added, content)) for content, number in added.table.items()]
    stated = own + [
        Stated(fields.place, token.content, number)
        for fields, tokens in ((options, decoder or {}), (pipeline, listed))
        for number, token in tokens.items()
    ]
    return AddedTokens(plain | listed if decoder is None else decoder, named, stated=tuple(stated), **extra)


def _legacy(options: Fields, special_map: Fields) -> Fields:
    """The older file of special tokens, which ``added_tokens_decoder`` replaces."""
    replaced = options.table.get("added_tokens_decoder") is not None
    return Fields({}, special_map.place, VocabularyError) if replaced else special_map


def added_tokens_decoder(options: Fields) -> dict[int, Added] | None:
    """The added tokens of ``tokenizer_config.json``; None if it lists none."""
    if options.table.get("added_tokens_decoder") is None:
        return None
    fields = Fields(options.mapping("added_tokens_decoder"), f"{options.place}, added_tokens_decoder", VocabularyError)
    return {
        _id(number, fields, number): Added.read(token, f"{fields.place}, {number:.40}", special=False)
        for number, token in fields.table.items()
    }


def listed_tokens(pipeline: Fields) -> dict[int, Added]:
    """The added tokens of ``tokenizer.json``."""
    entries = pipeline.table.get("added_tokens") or []
    if not isinstance(entries, list):
        pipeline.wrong("added_tokens", "a list")
    found = {}
    for entry in entries:
        fields = Fields(entry if isinstance(entry, dict) else {}, f"{pipeline.place}, added_tokens", VocabularyError)
        found[_id(fields.table.get("id"), fields, "id")] = Added.read(entry, fields.place, special=False)
    return found


def _id(value: Any, fields: Fields, name: str) -> int:
    number = as_int(value)
    return (
        number if number is not None and number >= 0 else fields.fail(name, f"{value!r:.80} is not an id of a token.")
    )


def named_tokens(options: Fields, special_map: Fields) -> dict[str, Added | None]:
    """The tokens with a meaning, such as "pad"; None where a file says that there is none."""
    legacy = _legacy(options, special_map)
    found: dict[str, Added | None] = {}
    for fields in (options, legacy):
        for key, value in fields.table.items():
            name = key.removesuffix("_token")
            if name == key or not (name in NAMED or isinstance(value, str | dict)):
                continue
            if fields is legacy and isinstance(value, dict):
                value = value | {"special": True}
            found[name] = None if value is None else Added.read(value, f"{fields.place}, {key:.40}", special=False)
    own = options.table.get("extra_special_tokens")
    for name, value in own.items() if isinstance(own, dict) else ():
        found[name] = Added.read(value, f"{options.place}, extra_special_tokens, {name:.40}", special=True)
    return found


def _extra(options: Fields, legacy: Fields) -> dict[str, tuple[Added, ...] | None]:
    """The lists ``extra_special_tokens`` and ``additional_special_tokens``."""
    found = {name: options.table.get(f"{name}_special_tokens") for name in ("extra", "additional")}
    if isinstance(found["extra"], dict):
        found["extra"] = None  # they have names
    if found["additional"] is not None and not found["extra"]:
        found = {"extra": found["additional"], "additional": None}
    older, newer = (legacy.table.get(f"{name}_special_tokens") for name in ("additional", "extra"))
    if newer is not None:
        both = [found["extra"] or [], newer]
        found["extra"] = [*both[0], *both[1]] if all(isinstance(tokens, list) for tokens in both) else newer
    found["additional"] = found["additional"] if older is None else older
    return {name: _tokens(tokens, f"{options.place}, {name}_special_tokens") for name, tokens in found.items()}


def _tokens(entries: Any, place: str) -> tuple[Added, ...] | None:
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise VocabularyError(f"{place}: {entries!r:.80} is not a list of tokens.")
    tokens = [Added.read(entry, place, special=True) for entry in entries]
    return tuple({token.content: token for token in tokens}.values())
