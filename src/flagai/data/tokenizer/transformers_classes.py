"""The pipelines of tokenizer classes: normalizer, pre-tokenizer, model, decoder and post-processor."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from flagai.data.tokenizer.added import Added
from flagai.data.tokenizer.saved import CLASSES, Saved
from flagai.data.tokenizer.vocabulary import read_merges, read_tokens, read_vocabulary, vocabulary_errors
from flagai.errors import VocabularyError

# Settings of tokenizer_config.json, and what they are called in a BERT's normalizer.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class PipelineSource:
    """What a tokenizer is made of."""

    saved: Saved  # the folder's JSON files
    files: tuple[Path, ...]  # the vocabulary
    special: Mapping[str, Added]  # special tokens by their meanings


# -- FlagAI's and THUDM's vocabularies --------------------------------------------------------------------------------


def load_wordpiece(path: Path, *, lower: bool = True, strip_accents: bool | None = None) -> Tokenizer:
    """Make a tokenizer of a ``vocab.txt``; by default accents are dropped where letters become lower-case."""
    vocabulary = read_tokens(path)
    missing = [token for token in _BERT_SPECIAL if token not in vocabulary]
    if missing:
        raise VocabularyError(
            f"{path} lacks {', '.join(missing)}: it is not a BERT vocabulary, or it is damaged. Download it again."
        )
    tokenizer = _wordpiece(vocabulary, "[UNK]", lowercase=lower, strip_accents=strip_accents)
    if lower:
        # At the end of a word Σ becomes ς; the library, which looks at single characters, would write σ.
        final_sigma = normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς")
        tokenizer.normalizer = normalizers.Sequence([final_sigma, tokenizer.normalizer])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _BERT_SPECIAL])
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return tokenizer


def load_byte_bpe(vocabulary: Path, merges: Path) -> Tokenizer:
    """Make a byte-level BPE tokenizer of a ``vocab.json`` and a ``merges.txt``."""
    tokens = read_vocabulary(vocabulary)
    pairs = read_merges(merges, len(tokens))
    with vocabulary_errors(vocabulary, merges):
        return _byte_level(tokens, pairs)


# -- pipelines -------------------------------------------------------------------------------------------------------


def _wordpiece(vocabulary: dict[str, int], unk: str, **normalizer: Any) -> Tokenizer:
    """BERT's pipeline around a vocabulary."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_level(tokens: dict[str, int], merges: list[tuple[str, str]], add_prefix_space: bool = False) -> Tokenizer:
    """GPT-2's pipeline around a vocabulary."""
    tokenizer = Tokenizer(BPE(tokens, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _template(tokenizer: Tokenizer, single: str, pair: str, *tokens: str) -> Any:
    """The special tokens around one text, $A, and around two, $A and $B."""
    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(tokens) if token]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


# -- transformers' classes ---------------------------------------------------------------------------------------------


def as_it_is(source: PipelineSource) -> Tokenizer:
    """What ``tokenizer.json`` says; where no class is named, settings beside it change a BERT's normalizer."""
    tokenizer = Tokenizer.from_str(source.files[0].read_text(encoding="utf-8-sig"))
    normalizer, saved = tokenizer.normalizer, source.saved
    if saved.stated_class is None and isinstance(normalizer, normalizers.BertNormalizer):
        for key, attribute in _NORMALIZER.items():
            setattr(normalizer, attribute, saved.options.flag(key, getattr(normalizer, attribute)))
    return tokenizer


def _bert(source: PipelineSource) -> Tokenizer:
    vocabulary = _listed(source) if source.saved.pipeline.table else read_tokens(source.files[0])
    _need("BertTokenizer", CLASSES["BertTokenizer"].special, vocabulary, source)
    stated = {attribute: source.saved.options.flag(key, None) for key, attribute in _NORMALIZER.items()}
    own = {attribute: flag for attribute, flag in stated.items() if flag is not None}
    return _wordpiece(vocabulary, source.special["unk"].content, **own)


def _roberta(source: PipelineSource) -> Tokenizer:
    tokenizer = _gpt2(source)
    _need("RobertaTokenizer", ("cls", "sep"), tokenizer.get_vocab(), source)
    return tokenizer


def _gpt2(source: PipelineSource) -> Tokenizer:
    if source.saved.pipeline.table:
        vocabulary = _listed(source)
        merges = [_pair(entry) for entry in source.saved.model["merges"]]
    else:
        vocabulary = read_vocabulary(source.files[0])
        merges = read_merges(source.files[1], len(vocabulary))
    return _byte_level(vocabulary, merges, source.saved.options.flag("add_prefix_space", False))


def _pair(entry: Any) -> tuple[str, str]:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return left, right


def _t5(source: PipelineSource) -> Tokenizer:
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


def _need(name: str, meanings: Iterable[str], vocabulary: Mapping[str, int], source: PipelineSource) -> None:
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
            f"{source.files[0]} lacks {', '.join(dict.fromkeys(missing))}: it is not the vocabulary of a {name}, or "
            "it is damaged. Download it again."
        )


def _listed(source: PipelineSource) -> dict[str, int]:
    vocabulary: Any = source.saved.model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token[0] if isinstance(token, list) else token: number for number, token in enumerate(vocabulary)}


# -- the special tokens around a text ------------------------------------------------------------------------------


def _bert_frame(source: PipelineSource, tokenizer: Tokenizer) -> Any:
    cls, sep = source.special["cls"].content, source.special["sep"].content
    alone = f"{cls}:0 $A:0 {sep}:0"
    return _template(tokenizer, alone, f"{alone} $B:1 {sep}:1", cls, sep)


def _roberta_frame(source: PipelineSource, tokenizer: Tokenizer) -> Any:
    vocabulary = tokenizer.get_vocab()
    sep, cls = ((token := source.special[name].content, vocabulary[token]) for name in ("sep", "cls"))
    options = source.saved.options
    return processors.RobertaProcessing(
        sep, cls, options.flag("trim_offsets", True), options.flag("add_prefix_space", False)
    )


def _gpt2_frame(source: PipelineSource, tokenizer: Tokenizer) -> Any:
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
    return _template(tokenizer, single, f"{single} {second}", *ends.values())


def _t5_frame(source: PipelineSource, tokenizer: Tokenizer) -> Any:
    eos = tokenizer.token_to_id(source.special["eos"].content)
    return processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", eos)]
    )


# How a class makes a tokenizer of a vocabulary, and which special tokens it puts around a text.
CLASS_PIPELINES: dict[str, tuple[Callable[[PipelineSource], Tokenizer], Callable[[PipelineSource, Tokenizer], Any]]] = {
    "BertTokenizer": (_bert, _bert_frame),
    "RobertaTokenizer": (_roberta, _roberta_frame),
    "GPT2Tokenizer": (_gpt2, _gpt2_frame),
    "T5Tokenizer": (_t5, _t5_frame),
}
