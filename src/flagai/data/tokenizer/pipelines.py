"""Tokenizers of transformers' folders: a vocabulary, the pipeline of its class, and the tokens that files add."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram, WordPiece

from flagai.data.tokenizer.added import NAMED, Added
from flagai.data.tokenizer.border import vocabulary_errors
from flagai.data.tokenizer.byte_bpe import byte_level, read_merges, read_vocabulary
from flagai.data.tokenizer.saved import CLASSES, Saved
from flagai.data.tokenizer.wordpiece import is_doubled, read_tokens
from flagai.errors import VocabularyError


@dataclass(frozen=True)
class Source:
    """What a tokenizer is made of.

    Args:
        saved: the folder's JSON files.
        files: the vocabulary.
        special: special tokens by their meanings.
    """

    saved: Saved
    files: tuple[Path, ...]
    special: Mapping[str, Added]


_SENTINEL = "<extra_id_"
# Settings of tokenizer_config.json, and what they are called in a BERT's normalizer.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Settings of tokenizer_config.json that change ids, of which one value is understood.
_ONLY: dict[str, Any] = {"do_basic_tokenize": True, "never_split": [], "errors": "replace"}


def load_saved(saved: Saved, name: str | None, files: tuple[Path, ...]) -> tuple[Tokenizer, dict[str, Added]]:
    """Make the tokenizer of a folder as transformers does.

    Args:
        saved: the JSON files.
        name: the tokenizer's class; None takes ``tokenizer.json`` as it is.
        files: the vocabulary: ``tokenizer.json``, ``vocab.txt``, or ``vocab.json`` and ``merges.txt``.

    Returns:
        The tokenizer, which neither pads nor truncates, and its special tokens by their meanings.

    Raises:
        VocabularyError: a file is damaged, or the files contradict each other.
    """
    _refuse(saved, name, files[0])
    special = saved.special(CLASSES[name].special if name is not None else {})
    source = Source(saved, files, special)
    with vocabulary_errors(*files):
        tokenizer = _as_it_is(source) if name is None else _MAKERS[name](source)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = saved.options.flag("split_special_tokens", False)
        added = _to_add(saved, name, tokenizer, special)
        _refuse_open_ids(saved, tokenizer, added, files[0])
        tokenizer.add_tokens([rust_token(token) for token in added])
        check_ids(saved, tokenizer.token_to_id)
        if name is not None:
            tokenizer.post_processor = _FRAMES[name](source, tokenizer)
    return tokenizer, special


def rust_token(token: Added) -> AddedToken:
    """A token as the Rust library takes it."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def check_ids(saved: Saved, find: Callable[[str], int | None]) -> None:
    """Compare the ids that files state with those that the tokenizer gives.

    Args:
        saved: the JSON files.
        find: gives the id of a token.

    Raises:
        VocabularyError: they differ.
    """
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


# -- vocabularies, and what their classes put around them ----------------------------------------------------------


def _as_it_is(source: Source) -> Tokenizer:
    """What ``tokenizer.json`` says; where no class is named, settings beside it change a BERT's normalizer."""
    tokenizer = Tokenizer.from_str(source.files[0].read_text(encoding="utf-8-sig"))
    normalizer, saved = tokenizer.normalizer, source.saved
    if saved.stated_class is None and isinstance(normalizer, normalizers.BertNormalizer):
        for key, attribute in _NORMALIZER.items():
            setattr(normalizer, attribute, saved.options.flag(key, getattr(normalizer, attribute)))
    return tokenizer


def _bert(source: Source) -> Tokenizer:
    vocabulary = _listed(source) if source.saved.pipeline.table else read_tokens(source.files[0])
    _need("BertTokenizer", CLASSES["BertTokenizer"].special, vocabulary, source)
    options = source.saved.options
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=source.special["unk"].content))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.flag("tokenize_chinese_chars", True),
        strip_accents=options.flag("strip_accents", None),
        lowercase=options.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _roberta(source: Source) -> Tokenizer:
    tokenizer = _byte_level(source)
    _need("RobertaTokenizer", ("cls", "sep"), tokenizer.get_vocab(), source)
    return tokenizer


def _byte_level(source: Source) -> Tokenizer:
    if source.saved.pipeline.table:
        vocabulary = _listed(source)
        merges = [_pair(entry) for entry in source.saved.model["merges"]]
    else:
        vocabulary = read_vocabulary(source.files[0])
        merges = read_merges(source.files[1], len(vocabulary))
    return byte_level(vocabulary, merges, add_prefix_space=source.saved.options.flag("add_prefix_space", False))


def _pair(entry: Any) -> tuple[str, str]:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return left, right


def _t5(source: Source) -> Tokenizer:
    tokenizer = Tokenizer(
        Unigram([tuple(piece) for piece in source.saved.model["vocab"]], unk_id=2, byte_fallback=False)
    )
    steps = source.saved.pipeline.mapping("normalizer")
    for step in steps["normalizers"] if steps.get("type") == "Sequence" else [steps]:
        if step.get("type") == "Precompiled":
            tokenizer.normalizer = normalizers.Precompiled(base64.b64decode(step["precompiled_charsmap"]))
            break
    metaspace: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    steps_before = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**metaspace)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps_before)
    tokenizer.decoder = decoders.Metaspace(**metaspace)
    return tokenizer


def _need(name: str, meanings: Iterable[str], vocabulary: Mapping[str, int], source: Source) -> None:
    """Refuse a vocabulary without the class's special tokens, which transformers would put behind it."""
    known = {token.content for token in source.saved.added.by_id.values()} | set(vocabulary)
    wanted = {meaning: source.special.get(meaning) for meaning in meanings}
    missing = [
        f"{meaning}_token" if token is None else token.content
        for meaning, token in wanted.items()
        if token is None or token.content not in known
    ]
    if missing:
        raise VocabularyError(
            f"{source.files[0]} lacks {', '.join(dict.fromkeys(missing))}: it is no vocabulary of a {name}, or it is "
            "damaged. Fetch it again."
        )


def _listed(source: Source) -> dict[str, int]:
    vocabulary: Any = source.saved.model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token[0] if isinstance(token, list) else token: number for number, token in enumerate(vocabulary)}


# -- the special tokens around a text ------------------------------------------------------------------------------


def _bert_frame(source: Source, tokenizer: Tokenizer) -> Any:
    cls, sep = source.special["cls"].content, source.special["sep"].content
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def _roberta_frame(source: Source, tokenizer: Tokenizer) -> Any:
    vocabulary = tokenizer.get_vocab()
    sep, cls = ((token := source.special[name].content, vocabulary[token]) for name in ("sep", "cls"))
    options = source.saved.options
    return processors.RobertaProcessing(
        sep, cls, options.flag("trim_offsets", True), options.flag("add_prefix_space", False)
    )


def _gpt2_frame(source: Source, tokenizer: Tokenizer) -> Any:
    written = source.saved.pipeline.table.get("post_processor")
    if written is not None:
        bare = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
        return Tokenizer.from_str(json.dumps(bare | {"post_processor": written})).post_processor
    add = not source.saved.pipeline.table  # a tokenizer.json says itself what is put around a text
    ends = {
        name: source.special[name].content
        if add and name in source.special and source.saved.options.flag(f"add_{name}_token", False)
        else ""
        for name in ("bos", "eos")
    }
    single, second = (
        " ".join(f"{token}:{kind}" for token in (ends["bos"], text, ends["eos"]) if token)
        for text, kind in (("$A", 0), ("$B", 1))
    )
    tokens = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(ends.values()) if token]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=tokens)


def _t5_frame(source: Source, tokenizer: Tokenizer) -> Any:
    eos = tokenizer.token_to_id(source.special["eos"].content)
    return processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", eos)]
    )


_MAKERS: dict[str, Callable[[Source], Tokenizer]] = {
    "BertTokenizer": _bert,
    "RobertaTokenizer": _roberta,
    "GPT2Tokenizer": _byte_level,
    "T5Tokenizer": _t5,
}
_FRAMES: dict[str, Callable[[Source, Tokenizer], Any]] = {
    "BertTokenizer": _bert_frame,
    "RobertaTokenizer": _roberta_frame,
    "GPT2Tokenizer": _gpt2_frame,
    "T5Tokenizer": _t5_frame,
}
