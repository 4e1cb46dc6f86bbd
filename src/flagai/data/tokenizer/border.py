"""The border to the libraries that read vocabularies: what they raise becomes this library's error, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagai.errors import FlagAIError, VocabularyError

# What the Rust library raises where it panics: a BaseException of a module that cannot be imported.
_PANIC = ("pyo3_runtime", "PanicException")


@contextmanager
def vocabulary_errors(*paths: Path, what: str = "cannot be read") -> Iterator[None]:
    """Turn every error of a library that reads a vocabulary into one that names the files.

    Args:
        *paths: the files that are read.
        what: what went wrong, for the message.

    Raises:
        VocabularyError: in place of what the library raised.
    """
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
    return f"{' and '.join(map(str, paths))} {what}: {error!s:.300}. Fetch {'it' if len(paths) == 1 else 'them'} again."
