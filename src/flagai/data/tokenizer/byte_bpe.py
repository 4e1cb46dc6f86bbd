"""The files of GPT-2's byte-level BPE, ``vocab.json`` and ``merges.txt``."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from flagai.data.tokenizer.border import vocabulary_errors
from flagai.data.tokenizer.saved import VOCABULARY_LIMIT
from flagai.errors import VocabularyError
from flagai.typed_json import read_json

# The bytes and some command tokens.
_MOST_WITHOUT_MERGES = 512


def load_byte_bpe(vocabulary: Path, merges: Path) -> Tokenizer:
    """Make a byte-level BPE tokenizer, without command tokens.

    Args:
        vocabulary: ``vocab.json``.
        merges: ``merges.txt``.

    Raises:
        VocabularyError: a file is damaged.
    """
    tokens = read_vocabulary(vocabulary)
    pairs = read_merges(merges, len(tokens))
    with vocabulary_errors(vocabulary, merges):
        return byte_level(tokens, pairs, add_prefix_space=False)


def byte_level(tokens: dict[str, int], merges: list[tuple[str, str]], *, add_prefix_space: bool) -> Tokenizer:
    """The pipeline of a byte-level BPE tokenizer around its vocabulary."""
    tokenizer = Tokenizer(BPE(tokens, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def read_vocabulary(path: Path) -> dict[str, int]:
    """The tokens of a ``vocab.json``.

    Raises:
        VocabularyError: the file is damaged, or no byte-level vocabulary.
    """
    vocabulary = read_json(path, VocabularyError, limit=VOCABULARY_LIMIT)
    wrong = next((token for token, number in vocabulary.items() if type(number) is not int or number < 0), None)
    if wrong is not None:
        raise VocabularyError(f"{path}: {vocabulary[wrong]!r:.80} is no id of {wrong!r:.80}. Fetch it again.")
    missing = [byte for byte in ByteLevel.alphabet() if byte not in vocabulary]
    if missing:
        raise VocabularyError(
            f"{path} lacks {len(missing)} of the 256 bytes: it is no byte-level vocabulary, or it is damaged. "
            "Fetch it again."
        )
    return vocabulary


def read_merges(path: Path, tokens: int = 0) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt``, the most frequent first.

    Args:
        path: the file.
        tokens: how many tokens the vocabulary has.

    Raises:
        VocabularyError: the file is damaged, or has no pairs for a large vocabulary.
    """
    with vocabulary_errors(path):
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise VocabularyError(f"{path}, line {number}: {line!r:.80} is no pair of tokens. Fetch it again.")
        merges.append((left, right))
    if tokens > _MOST_WITHOUT_MERGES and not merges:
        raise VocabularyError(f"{path} has no merges, so that no text would give long tokens. Fetch it again.")
    return merges
