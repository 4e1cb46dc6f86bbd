"""The files of vocabularies. What the libraries that read them raise becomes this library's error, here only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flagai.errors import FlagAIError, VocabularyError
from flagai.typed_json import read_json

# A vocabulary of a million tokens with merges has a tenth of it.
VOCABULARY_LIMIT = 256 << 20
# The bytes and some command tokens.
_MOST_WITHOUT_MERGES = 512
# What the Rust library raises where it panics: a BaseException of a module that cannot be imported.
_PANIC = ("pyo3_runtime", "PanicException")


@contextmanager
def vocabulary_errors(*paths: Path, what: str = "cannot be read") -> Iterator[None]:
    """Turn every error of a library that reads a vocabulary into a `VocabularyError` that names the files."""
    try:
        yield
    except (FlagAIError, MemoryError):
        raise
    except Exception as error:  # the libraries raise plain Exception
        raise VocabularyError(_message(paths, what, error)) from error
    except BaseException as error:
        if (type(error).__module__, type(error).__name__) != _PANIC:
            raise
        raise VocabularyError(_message(paths, what, error)) from error


def _message(paths: tuple[Path, ...], what: str, error: BaseException) -> str:
    return (
        f"{' and '.join(map(str, paths))} {what}: {error!s:.300}. Download {'it' if len(paths) == 1 else 'them'} again."
    )


def read_tokens(path: Path) -> dict[str, int]:
    """The tokens of a ``vocab.txt``, one in each line."""
    with vocabulary_errors(path, what="is not text in UTF-8"):
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


def read_vocabulary(path: Path) -> dict[str, int]:
    """The tokens of a ``vocab.json``, which must be a byte-level vocabulary."""
    vocabulary = read_json(path, VocabularyError, limit=VOCABULARY_LIMIT)
    wrong = next((token for token, number in vocabulary.items() if type(number) is not int or number < 0), None)
    if wrong is not None:
        raise VocabularyError(f"{path}: {vocabulary[wrong]!r:.80} is not an id of {wrong!r:.80}. Download it again.")
    from tokenizers.pre_tokenizers import ByteLevel

    missing = [byte for byte in ByteLevel.alphabet() if byte not in vocabulary]
    if missing:
        raise VocabularyError(
            f"{path} lacks {len(missing)} of the 256 bytes: it is no byte-level vocabulary, or it is damaged. "
            "Download it again."
        )
    return vocabulary


def read_merges(path: Path, tokens: int = 0) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt`` for a vocabulary of so many tokens, the most frequent first."""
    with vocabulary_errors(path):
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise VocabularyError(f"{path}, line {number}: {line!r:.80} is not a pair of tokens. Download it again.")
        merges.append((left, right))
    if tokens > _MOST_WITHOUT_MERGES and not merges:
        raise VocabularyError(f"{path} has no merges, so that no text would give long tokens. Download it again.")
    return merges


def load_sentencepiece(path: Path) -> Any:
    """Read a SentencePiece model."""
    from sentencepiece import SentencePieceProcessor

    with vocabulary_errors(path, what="is damaged, or no SentencePiece model"):
        # From memory, because the library cannot open every path of every system.
        content = path.read_bytes()
        if not content:
            raise ValueError("it is empty")  # which the library takes for a model without pieces
        return SentencePieceProcessor(model_proto=content)
