"""Endings of files and what they mean to the command line: data, and the error about the others."""

from collections.abc import Mapping
from pathlib import Path

from flagai.errors import InputError

GZIP = ".gz"
STREAM = Path("-")  # the standard input or output
JSON_LINES = (".jsonl", ".ndjson", ".json")
_BINARY: Mapping[str, str] = {
    **dict.fromkeys((".npy", ".npz", ".safetensors", ".bin", ".pt", ".pth", ".pkl", ".h5"), "arrays"),
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".sqlite", ".db"), "a binary table"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "an archive"),
    **dict.fromkeys((".doc", ".docx", ".pdf", ".rtf", ".epub"), "a document"),
}


def suffix_of(path: Path) -> str:
    """The ending that tells the form of a file, without .gz."""
    return (Path(path.stem).suffix if path.suffix.lower() == GZIP else path.suffix).lower()


def refuse_binary(path: Path, what: str, known: str) -> None:
    """Refuse a file whose ending means something else than text.

    Raises:
        InputError: the ending means arrays, an archive or the like.
    """
    kind = _BINARY.get(suffix_of(path))
    if kind is not None:
        raise InputError(f"{what} is {kind} by its ending {suffix_of(path)}. {known}.")
