"""Every exception of the library. Each message says what was found, where, and what to do."""

import re

# Control characters but tab and line feed, marks that turn the direction of text, and lone surrogates: a terminal obeys
# the first two, and cannot print the third.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """A text that is safe on a terminal: what it would obey or cannot print is written as an escape."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def quoted(text: object, limit: int = 200) -> str:
    """Text of a server or a file for use in a message: one line of at most ``limit`` characters, safe on a terminal."""
    line = " ".join(str(text)[: 4 * limit].split())
    return printable(line if len(line) <= limit else f"{line[: limit - 3]}...")


class FlagAIError(Exception):
    """Base class of all errors that flagai raises on purpose; the message is safe on a terminal."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(FlagAIError, ValueError):
    """A configuration file or an override cannot be understood."""


class CheckpointError(FlagAIError, RuntimeError):
    """A weights file is absent, damaged, unsafe or of an unknown format."""


class LoadError(CheckpointError):
    """A sound checkpoint does not fit the model; the message is the whole report."""


class ModelNotFoundError(FlagAIError, FileNotFoundError):
    """No model of this name or path is present."""


class VocabularyError(FlagAIError, ValueError):
    """A tokenizer's file is damaged, contradicts another one, or does not belong to the model."""


class InputError(FlagAIError, ValueError):
    """A model or a task was called with arguments that cannot be right."""


class ExportError(FlagAIError, RuntimeError):
    """A model has no exported form, or the exported form computes something else."""


class CatalogError(FlagAIError, ValueError):
    """A model card cannot be understood."""


class HubError(FlagAIError, OSError):
    """Files of a model could not be fetched, verified or stored; the message lists what each source said."""


class OfflineError(HubError):
    """Files are missing, and offline mode forbids to fetch them."""
