"""From a description to an engine and its command tokens: one function per kind."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flagai.data.tokenizer.commands import SENTINELS, TABLES, WITHOUT_LITERALS, Commands, CommandToken
from flagai.data.tokenizer.description import Description
from flagai.data.tokenizer.saved import FAST_FILE
from flagai.data.tokenizer.text import cleaned, is_chinese, join_chinese, join_english
from flagai.data.tokenizer.vocabulary import load_sentencepiece
from flagai.errors import VocabularyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tokenizers import Tokenizer as RustTokenizer

    from flagai.data.tokenizer.added import Added
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.sentencepiece_engine import SentencePieceEngine

# What special tokens are taken for where transformers' files do not say it.
_USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "eos": ("</s>", "<|endoftext|>", "[EOS]"),
    "bos": ("<s>", "[BOS]"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}
# Tokens that fill the places of others in models that have no others.
_STAND_INS = {"pad": ("eos",)}
# Embeddings are filled up to a multiple of 128, or keep rows for later; a vocabulary that lacks more was cut.
_MOST_UNUSED = 1024


class Built(NamedTuple):
    """A tokenizer's parts."""

    engine: "RustEngine | SentencePieceEngine"
    commands: Commands


def build(description: Description) -> Built:
    """Read the files of a tokenizer."""
    by_files = description.table is None or description.files == (FAST_FILE,)
    built = _by_files(description) if by_files else _by_table(description)
    _check_size(description, built)
    return built


# -- as transformers' files say --------------------------------------------------------------------------------------


def _by_files(description: Description) -> Built:
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.transformers_folder import load_saved

    tokenizer, special = load_saved(description.saved, description.class_name, description.paths)
    added = tokenizer.get_added_tokens_decoder()
    stripping = {token.content for token in added.values() if token.lstrip or token.rstrip}
    finish = cleaned if _cleans(description, tokenizer) else str
    engine = RustEngine(tokenizer, _join(tokenizer, description), stripping=stripping, finish=finish)
    if description.table is not None:
        return _with_table(engine, description, description.paths[0])
    return Built(engine, _listed_commands(tokenizer, special))


def _cleans(description: Description, tokenizer: "RustTokenizer") -> bool:
    """Whether decoding removes spaces before punctuation; byte-level vocabularies keep them unless told twice."""
    options = description.saved.options
    twice = options.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    return options.flag("clean_up_tokenization_spaces", False) and (twice or type(tokenizer.model).__name__ != "BPE")


def _listed_commands(tokenizer: "RustTokenizer", special: "Mapping[str, Added]") -> Commands:
    """The special tokens, by their meanings where these are known."""
    added = tokenizer.get_added_tokens_decoder()
    by_content = {token.content: (number, token) for number, token in added.items()}
    named = {name: token.content for name, token in special.items() if token.content in by_content}
    usual = {name: next((text for text in texts if text in by_content), None) for name, texts in _USUAL_NAMES.items()}
    named = {name: text for name, text in usual.items() if text is not None and name not in special} | named
    named |= {text.strip("<>"): text for text in by_content if text not in named.values()}
    commands = {}
    for name, text in named.items():
        number, token = by_content[text]
        commands[name] = CommandToken(name, text, number, token.lstrip, token.rstrip, token.special)
    for name, others in _STAND_INS.items():
        other = next((commands[other] for other in others if other in commands), None)
        if name not in commands and other is not None:
            commands[name] = replace(other, name=name)
    return Commands(commands.values())


# -- as a table says -------------------------------------------------------------------------------------------------


def _by_table(description: Description) -> Built:
    makers = {"sentencepiece": _sentencepiece, "t5": _sentencepiece, "wordpiece": _wordpiece, "bpe": _bpe}
    makers |= {"tiktoken": _ranks}
    built = makers[description.kind](description)
    from flagai.data.tokenizer.transformers_folder import check_ids

    check_ids(description.saved, lambda text: _id(built, text))
    return built


def _id(built: Built, text: str) -> int | None:
    command = built.commands.by_text.get(text)
    return built.engine.find(text) if command is None else command.Id


def _sentencepiece(description: Description) -> Built:
    from flagai.data.tokenizer.ice_processor import IceProcessor
    from flagai.data.tokenizer.sentencepiece_engine import SentencePieceEngine

    path, saved = description.paths[0], description.saved
    processor, table = load_sentencepiece(path), description.table or description.kind
    if table == "chatglm":
        engine = SentencePieceEngine(IceProcessor(processor), spaced=False, keeps_spaces=True)
    else:
        literal = table not in WITHOUT_LITERALS
        engine = SentencePieceEngine(processor, spaced=description.kind == "t5", literal=literal)
    sentinels = saved.options.integer("extra_ids", SENTINELS)
    commands = Commands.of_table(table, engine.size, engine.find, str(path), sentinels)
    engine.commands = commands.joined(_added_commands(description))
    return Built(engine, engine.commands)


def _added_commands(description: Description) -> "Iterator[CommandToken]":
    """The tokens that a folder's files add to a vocabulary with a table."""
    added = description.saved.added
    listed = {token.content for token in added.additional or ()}
    for number, token in sorted(added.by_id.items()):
        special = token.special or token.content in listed
        yield CommandToken(token.content, token.content, number, token.lstrip, token.rstrip, special)


def _wordpiece(description: Description) -> Built:
    from flagai.data.tokenizer.jieba_engine import JiebaEngine
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.transformers_classes import load_wordpiece

    path, options = description.paths[0], description.saved.options
    lower, accents = options.flag("do_lower_case", True), options.flag("strip_accents", None)
    if description.segmenter == "jieba":
        # T5-PEGASUS was trained with accents.
        engine: RustEngine = JiebaEngine(load_wordpiece(path, lower=lower, strip_accents=False), join_chinese)
    else:
        rust = load_wordpiece(path, lower=lower, strip_accents=accents)
        engine = RustEngine(rust, _join(rust, description))
    return _with_table(engine, description, path)


def _bpe(description: Description) -> Built:
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.transformers_classes import load_byte_bpe

    vocabulary, merges = description.paths
    # THUDM gives nothing for spaces; OpenAI gives tokens.
    engine = RustEngine(load_byte_bpe(vocabulary, merges), keep_whitespace=description.family != "glm")
    return _with_table(engine, description, vocabulary)


def _ranks(description: Description) -> Built:
    from flagai.data.tokenizer.ranks import load_ranks
    from flagai.data.tokenizer.rust_engine import RustEngine

    return _with_table(RustEngine(load_ranks(description.paths[0])), description, description.paths[0])


def _with_table(engine: "RustEngine", description: Description, path: Path) -> Built:
    """Add a table's command tokens to an engine that cuts them out of the text itself."""
    table = description.table or description.kind
    commands = Commands.of_table(table, engine.size, engine.find, str(path)).joined(_added_commands(description))
    written = {row.written for row in TABLES[table]}  # spellings of other tokens
    before = [None if token.token in written else engine.find(token.token) for token in commands.tokens]
    engine.add_commands(sorted(commands.tokens, key=lambda token: token.Id))
    for token, found in zip(commands.tokens, before, strict=True):
        if (found := engine.find(token.token) if found is None else found) != token.Id:
            raise VocabularyError(
                f"{path}: {token.token} should have the id {token.Id}, but the vocabulary gives it {found}. Fetch the "
                "tokenizer's files again, all of one model."
            )
    return Built(engine, commands)


def _join(tokenizer: "RustTokenizer", description: Description) -> "Callable[[Iterable[str]], str] | None":
    """How WordPiece tokens become a text: Chinese without spaces, English as the files say."""
    if description.kind != "wordpiece":
        return None
    if is_chinese(tokenizer.get_vocab()):
        return join_chinese
    return None if description.table is None else join_english


# -- does it belong to the model? ------------------------------------------------------------------------------------


def _check_size(description: Description, built: Built) -> None:
    """Compare the vocabulary with the embedding that ``config.json`` describes.

    Command tokens of a table count for GLM and ChatGLM only: FlagAI's other models know GLM's without rows for them.
    """
    saved = description.saved
    rows = saved.config.integer("padded_vocab_size", saved.config.integer("vocab_size", None))
    if rows is None:
        return
    highest = max((token.Id for token in built.commands.tokens), default=-1) + 1
    size = max(built.engine.size, highest if description.family in ("glm", "chatglm", "chatglm2") else 0)
    if size <= rows and max(size, highest) > rows - _MOST_UNUSED:
        return
    raise VocabularyError(
        f"{description.paths[0]} has {size} tokens, but {saved.config.place} says vocab_size={rows}: the tokenizer "
        "does not belong to the model, or a file is damaged. Fetch the files of one model again."
    )
