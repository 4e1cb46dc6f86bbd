"""GPT-2's byte-level BPE, from ``vocab.json`` and ``merges.txt``."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from flagai.errors import VocabularyError


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
    return tokenizer
