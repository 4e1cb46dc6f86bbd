"""What a folder's JSON files say of its tokenizer, each read once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flagai.catalog.card import MODEL_TYPES, glm_generation
from flagai.data.tokenizer.added import Added, AddedTokens, read_added
from flagai.data.tokenizer.commands import TABLES
from flagai.data.tokenizer.vocabulary import VOCABULARY_LIMIT
from flagai.errors import ConfigError, FlagAIError, VocabularyError
from flagai.typed_json import SIZE_LIMIT, Fields, read_json

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
FAST_FILE = "tokenizer.json"
OPTIONS_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
# A key of tokenizer_config.json: this library's, where the folder's name would have to tell it.
TABLE_KEY = "command_table"
BESIDE = (OPTIONS_FILE, SPECIAL_FILE, ADDED_FILE)


@dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer class of transformers or THUDM."""

    model: str  # the kind of vocabulary that it takes
    special: dict[str, str]  # its special tokens where no file names them
    table: str | None = None  # the table of command tokens, if it is a class of THUDM's or T5-PEGASUS's


_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
_GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_T5 = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
CLASSES = {
    "BertTokenizer": TokenizerClass("WordPiece", _BERT),
    "RobertaTokenizer": TokenizerClass("BPE", _ROBERTA),
    "GPT2Tokenizer": TokenizerClass("BPE", _GPT2),
    "T5Tokenizer": TokenizerClass("Unigram", _T5),
    "GLMChineseTokenizer": TokenizerClass("SentencePiece", {}, "fixed"),
    "GLMBertTokenizer": TokenizerClass("WordPiece", {}, "wordpiece"),
    "GLMGPT2Tokenizer": TokenizerClass("BPE", {}, "glm-bpe"),
    "GLMRobertaTokenizer": TokenizerClass("BPE", {}, "glm-roberta"),
    "T5PegasusTokenizer": TokenizerClass("WordPiece", {}, "wordpiece"),
}
# Other names of these classes.
_SAME = {
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
    "LayoutLMTokenizer": "BertTokenizer",
    "LongformerTokenizer": "RobertaTokenizer",
    "BartTokenizer": "RobertaTokenizer",
    "MT5Tokenizer": "T5Tokenizer",
}
_BY_MODEL_TYPE = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
}
# Classes that take a tokenizer.json as it is.
_AS_IT_IS = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")


@dataclass(frozen=True)
class Saved:
    """The JSON files of a folder; absent ones are empty."""

    folder: Path
    config: Fields  # `config.json`
    options: Fields  # `tokenizer_config.json`
    special_map: Fields  # `special_tokens_map.json`
    added_file: Fields  # `added_tokens.json`
    pipeline: Fields  # `tokenizer.json`
    generation: Fields  # `generation_config.json`

    @classmethod
    def read(cls, folder: Path) -> "Saved":
        """Read the files.

        Raises:
            ConfigError: ``config.json`` is damaged.
            VocabularyError: another file is damaged.
        """
        return cls(
            folder,
            config=_fields(folder / CONFIG_FILE, ConfigError),
            options=_fields(folder / OPTIONS_FILE, VocabularyError),
            special_map=_fields(folder / SPECIAL_FILE, VocabularyError),
            added_file=_fields(folder / ADDED_FILE, VocabularyError),
            pipeline=_fields(folder / FAST_FILE, VocabularyError, VOCABULARY_LIMIT),
            generation=_fields(folder / GENERATION_FILE, ConfigError),
        )

    @cached_property
    def added(self) -> AddedTokens:
        """The tokens that the files add."""
        return read_added(self.options, self.special_map, self.added_file, self.pipeline)

    @property
    def command_table(self) -> str | None:
        """The table of command tokens that ``tokenizer_config.json`` names, as training and ``convert`` write it."""
        table = self.options.text(TABLE_KEY, None)
        return (
            table if table is None or table in TABLES else self.options.wrong(TABLE_KEY, f"one of {', '.join(TABLES)}")
        )

    @property
    def beside(self) -> bool:
        """Whether files say more of the tokenizer than the vocabulary does."""
        return any((self.folder / name).is_file() for name in (*BESIDE, FAST_FILE))

    @property
    def family(self) -> str | None:
        """The model's family, if ``config.json`` says it."""
        stated = self._config_type
        if (generation := glm_generation(stated, self.config.table)) is not None:
            return generation
        found = next((family for family, stated_types in MODEL_TYPES.items() if stated in stated_types), None)
        return "glm" if found is None and "block_position_encoding" in self.config.table else found

    @property
    def _config_type(self) -> str:
        return self.config.text("model_type", "").lower()

    @property
    def stated_class(self) -> str | None:
        """The tokenizer class that the files name, without "Fast"."""
        name = self.options.text("tokenizer_class", None) or self.config.text("tokenizer_class", None)
        return None if name is None else name if name in _AS_IT_IS else name.removesuffix("Fast")

    @property
    def class_name(self) -> str | None:
        """The tokenizer class: as stated, or that of the model's type; None if it is open or of an unknown kind."""
        stated = self.stated_class
        if stated is not None:
            stated = _SAME.get(stated, stated)
            return stated if stated in CLASSES else None
        return _BY_MODEL_TYPE.get(self._config_type)

    @property
    def model(self) -> dict[str, Any]:
        """The vocabulary in ``tokenizer.json``."""
        return self.pipeline.mapping("model")

    @property
    def model_type(self) -> str | None:
        """The kind of the vocabulary in ``tokenizer.json``: "WordPiece", "BPE", "Unigram" or another."""
        fields = Fields(self.model, f"{self.pipeline.place}, model", VocabularyError)
        if (stated := fields.text("type", None)) is not None:
            return stated
        # Files of the first versions do not name it.
        keys = {"merges": "BPE", "continuing_subword_prefix": "WordPiece", "unk_id": "Unigram"}
        return next((kind for key, kind in keys.items() if key in fields.table), None)

    def special(self, defaults: dict[str, str]) -> dict[str, Added]:
        """The named special tokens.

        Args:
            defaults: those of the tokenizer class, where the files name none.
        """
        named = {name: Added(token, bare=True) for name, token in defaults.items()} | dict(self.added.named)
        by_content = {token.content: token for token in self.added.by_id.values()}
        return {name: by_content.get(token.content, token) for name, token in named.items() if token is not None}


def _fields(path: Path, error: type[FlagAIError], limit: int = SIZE_LIMIT) -> Fields:
    return Fields(read_json(path, error, limit=limit) if path.is_file() else {}, str(path), error)
