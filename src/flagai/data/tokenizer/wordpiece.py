"""BERT's original WordPiece tokenizer, from a ``vocab.txt`` alone."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Normalizer, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from flagai.data.tokenizer.border import vocabulary_errors
from flagai.errors import VocabularyError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def from_vocabulary(path: Path, *, lower: bool = True, strip_accents: bool | None = None) -> Tokenizer:
    """Make a tokenizer of a ``vocab.txt``.

    Args:
        path: the file.
        lower: whether upper-case letters become lower-case.
        strip_accents: whether accents are dropped; default: as ``lower``.

    Raises:
        VocabularyError: the file is damaged, or no BERT vocabulary.
    """
    vocabulary = read_tokens(path)
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise VocabularyError(
            f"{path} lacks {', '.join(missing)}: it is no BERT vocabulary, or it is damaged. Fetch it again."
        )
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    normalizer = BertNormalizer(
        lowercase=lower, strip_accents=lower if strip_accents is None else strip_accents, handle_chinese_chars=True
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


def read_tokens(path: Path) -> dict[str, int]:
    """The tokens of a ``vocab.txt``, one in each line.

    Raises:
        VocabularyError: the file is no text in UTF-8.
    """
    with vocabulary_errors(path, what="is no text in UTF-8"):
        # Only "\n" ends an entry: some vocabularies hold other line separators as tokens.
        lines = path.read_bytes().decode("utf-8-sig").rstrip("\r\n").split("\n")
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.rstrip() or line.rstrip("\r")
        # A token that is there twice keeps its last id; its first row stays empty, so that no other id moves.
        earlier = vocabulary.get(token)
        if earlier is not None:
            vocabulary[f"{token}\n{earlier}"] = earlier
        vocabulary[token] = index
    return vocabulary


def is_doubled(token: str) -> bool:
    """Whether :func:`read_tokens` put this entry in the place of a token that is there twice."""
    return "\n" in token


def _final_sigma() -> Normalizer:
    """At the end of a word Σ becomes ς; the library, which looks at single characters, would write σ."""
    return Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς")
