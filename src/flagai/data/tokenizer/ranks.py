"""GLM-4's vocabulary: lines of a token in base64 and its rank, which is its id and the order of merges."""

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from flagai.data.tokenizer.text import BYTE_LETTERS
from flagai.data.tokenizer.vocabulary import VOCABULARY_LIMIT, vocabulary_errors
from flagai.errors import VocabularyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How GLM-4's texts are cut before bytes are merged: contractions, words, up to three digits, marks, ends of lines,
# spaces.
_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_FIRST_LINE = 512


def is_ranks(path: Path) -> bool:
    """Whether a file holds ranks, and not a SentencePiece model, which may have the same name."""
    with path.open("rb") as file:
        first = file.read(_FIRST_LINE).split(b"\n")[0].split()
    return len(first) == 2 and first[1].isdigit() and _token(first[0]) is not None


def load_ranks(path: Path) -> "Tokenizer":
    """Make a byte-level BPE tokenizer of a file of ranks.

    Raises:
        VocabularyError: it is damaged.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    ranks = _read(path)
    spelled = {token: "".join(map(BYTE_LETTERS.__getitem__, token)) for token in ranks}
    merges = [
        (spelled[left], spelled[right])
        for token in sorted(ranks, key=ranks.__getitem__)
        for left, right in sorted(_halves(token, ranks), key=lambda halves: (ranks[halves[0]], ranks[halves[1]]))
    ]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    with vocabulary_errors(path):
        # A word that is a token stays whole: merges may lead past it.
        tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
        split = pre_tokenizers.Split(Regex(_PATTERN), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs of tokens that a token joins."""
    cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
    return [(left, right) for left, right in cuts if left in ranks and right in ranks]


def _read(path: Path) -> dict[bytes, int]:
    with vocabulary_errors(path):
        content = path.read_bytes()
    if len(content) > VOCABULARY_LIMIT:
        raise VocabularyError(
            f"{path} is larger than {VOCABULARY_LIMIT:,} bytes: it is not a vocabulary. Download it again."
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines()):
        encoded, _, rank = line.partition(b" ")
        token = _token(encoded)
        if token is None or rank != b"%d" % number or token in ranks:
            raise VocabularyError(
                f"{path}, line {number + 1}: {line!r:.80} is not a new token in base64 and its rank {number}. "
                "Download it again."
            )
        ranks[token] = number
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise VocabularyError(f"{path} lacks {len(missing)} of the 256 bytes: it is damaged. Download it again.")
    return ranks


def _token(encoded: bytes) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True) or None
    except binascii.Error:
        return None
