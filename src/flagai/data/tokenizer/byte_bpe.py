"""GPT-2's byte-level BPE, from ``vocab.json`` and ``merges.txt``."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from flagai.errors import VocabularyError

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
    try:
        model = BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # tokenizers raises plain Exception
        raise VocabularyError(f"{vocabulary} and {merges} cannot be read: {error}. Fetch them again.") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    missing = [byte for byte in ByteLevel.alphabet() if tokenizer.token_to_id(byte) is None]
    if missing:
        raise VocabularyError(
            f"{vocabulary} lacks {len(missing)} of the 256 bytes: it is no byte-level vocabulary, or it is damaged. "
            "Fetch it again."
        )
    if tokenizer.get_vocab_size() > _MOST_WITHOUT_MERGES and not _has_merges(merges):
        raise VocabularyError(f"{merges} has no merges, so that no text would give long tokens. Fetch it again.")
    return tokenizer


def _has_merges(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(line.strip() and not line.startswith("#version") for line in lines[:2])
