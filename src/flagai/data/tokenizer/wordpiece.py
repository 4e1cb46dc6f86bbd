"""BERT's WordPiece tokenizer, from ``tokenizer.json`` or ``vocab.txt``."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Normalizer, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from flagai.data.tokenizer.description import read_settings
from flagai.errors import VocabularyError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_fast(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``; ``do_lower_case`` in the ``tokenizer_config.json`` beside it wins.

    Raises:
        VocabularyError: the file is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise VocabularyError(f"{path} cannot be read: {error}. Fetch it again.") from error
    lower = read_settings(path.with_name("tokenizer_config.json")).get("do_lower_case")
    if isinstance(tokenizer.normalizer, BertNormalizer) and isinstance(lower, bool):
        tokenizer.normalizer.lowercase = lower
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def from_vocabulary(path: Path, *, strip_accents: bool | None = None) -> Tokenizer:
    """Make a tokenizer of a ``vocab.txt``.

    Args:
        path: the file.
        strip_accents: whether accents are dropped; default: where ``do_lower_case`` is on.

    Raises:
        VocabularyError: the file is damaged, or no BERT vocabulary.
    """
    vocabulary = _read_vocabulary(path)
    options = read_settings(path.with_name("tokenizer_config.json"))
    lower = bool(options.get("do_lower_case", True))
    if strip_accents is None:
        strip_accents = options.get("strip_accents")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    normalizer = BertNormalizer(
        lowercase=lower,
        strip_accents=lower if strip_accents is None else strip_accents,
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
    )
    tokenizer.normalizer = NormalizerSequence([_final_sigma(), normalizer]) if lower else normalizer
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _final_sigma() -> Normalizer:
    """At the end of a word Σ becomes ς; the library, which looks at single characters, would write σ."""
    return Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς")


def _read_vocabulary(path: Path) -> dict[str, int]:
    # Only "\n" ends an entry: some vocabularies hold other line separators as tokens.
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path} is no text in UTF-8: {error}. Fetch it again.") from error
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.rstrip("\r")
        # A token that is there twice keeps its last id; its first row stays empty, so that no other id moves.
        earlier = vocabulary.get(token)
        if earlier is not None:
            vocabulary[f"{token}\n{earlier}"] = earlier
        vocabulary[token] = index
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise VocabularyError(
            f"{path} lacks {', '.join(missing)}: it is no BERT vocabulary, or it is damaged. Fetch it again."
        )
    return vocabulary
