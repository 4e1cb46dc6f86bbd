"""Tokenizers of transformers' folders: the pipeline of a class, and the tokens that files add."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from flagai.data.tokenizer.added import NAMED, Added
from flagai.data.tokenizer.saved import CLASSES, Saved
from flagai.data.tokenizer.transformers_classes import CLASS_PIPELINES, PipelineSource, as_it_is
from flagai.data.tokenizer.vocabulary import is_doubled, vocabulary_errors
from flagai.errors import VocabularyError

_SENTINEL = "<extra_id_"
# Settings of tokenizer_config.json that change ids, of which one value is understood.
_ONLY: dict[str, Any] = {"do_basic_tokenize": True, "never_split": [], "errors": "replace"}


def load_saved(saved: Saved, name: str | None, files: tuple[Path, ...]) -> tuple[Tokenizer, dict[str, Added]]:
    """Make the tokenizer of a class from a vocabulary's files as transformers does; None: as ``tokenizer.json`` says.

    Returns:
        The tokenizer, which neither pads nor truncates, and its special tokens by their meanings.

    Raises:
        VocabularyError: a file is damaged, or the files contradict each other.
    """
    _refuse(saved, name, files[0])
    special = saved.special(CLASSES[name].special if name is not None else {})
    source = PipelineSource(saved, files, special)
    with vocabulary_errors(*files):
        tokenizer = as_it_is(source) if name is None else CLASS_PIPELINES[name][0](source)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = saved.options.flag("split_special_tokens", False)
        added = _to_add(saved, name, tokenizer, special)
        _refuse_open_ids(saved, tokenizer, added, files[0])
        tokenizer.add_tokens([rust_token(token) for token in added])
        check_ids(saved, tokenizer.token_to_id)
        if name is not None:
            tokenizer.post_processor = CLASS_PIPELINES[name][1](source, tokenizer)
    return tokenizer, special


def rust_token(token: Added) -> AddedToken:
    """A token as the Rust library takes it."""
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{name: getattr(token, name) for name in names})


def check_ids(saved: Saved, find: Callable[[str], int | None]) -> None:
    """Compare the ids that files state with those that the tokenizer gives."""
    for stated in saved.added.stated:
        number = find(stated.content)
        if number != stated.number:
            gives = "has no such token" if number is None else f"gives it {number}"
            raise VocabularyError(
                f"{stated.place} says that {stated.content!r:.80} has the id {stated.number}, but the vocabulary "
                f"{gives}. Fetch the tokenizer's files again, all of one model."
            )


def _refuse(saved: Saved, name: str | None, path: Path) -> None:
    for key, value in _ONLY.items():
        if saved.options.table.get(key) not in (None, value):
            saved.options.fail(key, f"only {value!r} is understood. Save the tokenizer as tokenizer.json.")
    if saved.pipeline.table and name is not None and saved.model_type != CLASSES[name].model:
        raise VocabularyError(
            f"{path} holds a {saved.model_type} vocabulary, but a {name} has {CLASSES[name].model}. Correct "
            "tokenizer_class in tokenizer_config.json, or fetch the files again."
        )


def _refuse_open_ids(saved: Saved, tokenizer: Tokenizer, added: Iterable[Added], path: Path) -> None:
    """Refuse new tokens beside a vocabulary with a token twice: its length and its last id leave open what they get."""
    stated = {entry.content for entry in saved.added.stated}
    contents = [token.content for token in added if token.content not in stated]
    new = [content for content in contents if tokenizer.token_to_id(content) is None]
    if new and any(is_doubled(token) for token in tokenizer.get_vocab(with_added_tokens=False)):
        raise VocabularyError(
            f"{path} has a token twice, which leaves the ids of added tokens open: {', '.join(new)!s:.200}. State them "
            "in added_tokens.json."
        )


def _to_add(saved: Saved, name: str | None, tokenizer: Tokenizer, special: Mapping[str, Added]) -> list[Added]:
    """All added tokens, in the order in which they get ids."""
    tokens = [token for _, token in sorted(saved.added.by_id.items())]
    known = {token.content for token in tokens}
    known |= {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    order = [*NAMED, *(name for name in special if name not in NAMED)]
    named = [special[name] for name in order if name in special]
    for token in (*named, *_extra(saved, name)):
        if token.content not in known and token not in tokens:
            tokens.append(token)
    contents = {token.content for token in named}
    return [replace(token, special=token.special or token.content in contents) for token in tokens]


def _extra(saved: Saved, name: str | None) -> tuple[Added, ...]:
    extra, additional = saved.added.extra, saved.added.additional
    if name == "T5Tokenizer":
        count = saved.options.integer("extra_ids", 100)
        listed = [token for token in additional or () if _SENTINEL in token.content]
        if listed and count not in (0, len(listed)):
            saved.options.fail("extra_ids", f"{count}, but the folder lists {len(listed)} sentinels. Make them equal.")
        own = () if listed else tuple(Added(f"{_SENTINEL}{number}>", bare=True) for number in range(count))
        additional = (*(additional or ()), *own)
    return (additional or ()) if extra is None else extra
