"""From a description to an engine and its command tokens: one function per kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flagai.data.tokenizer.commands import TABLES, Commands, CommandToken
from flagai.data.tokenizer.description import FAST_FILE, Description, read_settings
from flagai.data.tokenizer.text import is_chinese, join_chinese, join_english

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from tokenizers import Tokenizer as RustTokenizer

    from flagai.data.tokenizer.encoding import Encoding
    from flagai.data.tokenizer.rust_engine import RustEngine

# Names of special tokens in Hugging Face's files, and what they are taken for where the files do not say.
_SPECIAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "eos": ("</s>", "<|endoftext|>", "[EOS]"),
    "bos": ("<s>", "[BOS]"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}


class Engine(Protocol):
    """Text to ids and back, without a word about models."""

    size: int

    def encode_ids(self, texts: "Sequence[str]") -> list[list[int]]:
        """The ids of every text."""

    def encode(self, texts: "Sequence[str]") -> "list[Encoding]":
        """The encoding of every text."""

    def decode(self, ids: "Sequence[int]", hidden: "Container[int]" = ()) -> str:
        """The text of ids, without hidden ones."""

    def token(self, number: int) -> str:
        """The token of an id; empty if there is none."""

    def find(self, token: str) -> int | None:
        """The id of a token."""

    def vocabulary(self) -> dict[str, int]:
        """All tokens."""


@dataclass(frozen=True)
class Built:
    """A tokenizer's parts.

    Args:
        engine: text to ids and back.
        commands: the command tokens.
    """

    engine: Engine
    commands: Commands


def build(description: Description) -> Built:
    """Read the files of a tokenizer.

    Raises:
        VocabularyError: a file is damaged.
        ConfigError: something that is needed is not installed.
    """
    if description.files == (FAST_FILE,):
        return _fast(description)
    return {"sentencepiece": _sentencepiece, "t5": _sentencepiece, "wordpiece": _wordpiece, "bpe": _bpe}[
        description.kind
    ](description)


def _sentencepiece(description: Description) -> Built:
    from flagai.data.tokenizer.sentencepiece_engine import SentencePieceEngine, load_sentencepiece

    path = description.paths[0]
    processor = load_sentencepiece(path)
    unread = SentencePieceEngine(processor, Commands(()), spaced=False)
    commands = Commands.of_table(description.table or description.kind, unread.size, unread.find, str(path))
    return Built(SentencePieceEngine(processor, commands, spaced=description.kind == "t5"), commands)


def _wordpiece(description: Description) -> Built:
    from flagai.data.tokenizer.jieba_engine import JiebaEngine
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.wordpiece import from_vocabulary

    path = description.paths[0]
    if description.segmenter == "jieba":
        # T5-PEGASUS was trained with accents.
        engine: RustEngine = JiebaEngine(from_vocabulary(path, strip_accents=False), join_chinese)
    else:
        rust = from_vocabulary(path)
        engine = RustEngine(rust, _join(rust, description))
    return _with_table(engine, description, path)


def _bpe(description: Description) -> Built:
    from flagai.data.tokenizer.byte_bpe import load_byte_bpe
    from flagai.data.tokenizer.rust_engine import RustEngine

    vocabulary, merges = description.paths
    # THUDM gives nothing for blanks; OpenAI gives tokens.
    engine = RustEngine(load_byte_bpe(vocabulary, merges), keep_blank=description.family != "glm")
    return _with_table(engine, description, vocabulary)


def _fast(description: Description) -> Built:
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.wordpiece import load_fast

    path = description.paths[0]
    tokenizer = load_fast(path)
    if description.kind == "wordpiece":
        return _with_table(RustEngine(tokenizer, _join(tokenizer, description)), description, path)
    engine = RustEngine(tokenizer)
    if description.table in TABLES:
        return _with_table(engine, description, path)
    return Built(engine, _listed_commands(tokenizer, path))


def _with_table(engine: "RustEngine", description: Description, path: Path) -> Built:
    """Add a table's command tokens to an engine that cuts them out of the text itself."""
    table = description.table or description.kind
    commands = Commands.of_table(table, engine.size, engine.find, str(path))
    engine.add_commands(commands.tokens)
    return Built(engine, commands)


def _join(tokenizer: "RustTokenizer", description: Description) -> "Callable[[Iterable[str]], str]":
    """How tokens become a text; where nothing says the language, the vocabulary does."""
    chinese = is_chinese(tokenizer.get_vocab()) if description.language is None else description.language == "zh"
    return join_chinese if chinese else join_english


def _listed_commands(tokenizer: "RustTokenizer", path: Path) -> Commands:
    """The command tokens that a folder of Hugging Face names."""
    settings = read_settings(path.with_name("tokenizer_config.json"))
    settings = read_settings(path.with_name("special_tokens_map.json")) | settings
    find: Callable[[str], int | None] = tokenizer.token_to_id
    named: dict[str, CommandToken] = {}
    for name, usual in _SPECIAL_NAMES.items():
        entry = settings.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        for candidate in [text] if isinstance(text, str) else usual:
            number = find(candidate)
            if number is not None:
                named[name] = CommandToken(name, candidate, number)
                break
    known = {token.token for token in named.values()}
    for number, added in tokenizer.get_added_tokens_decoder().items():
        if added.special and added.content not in known:
            named[added.content] = CommandToken(added.content, added.content, number)
    return Commands(named.values())
