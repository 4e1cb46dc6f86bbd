"""A folder with a record of its files: sizes and SHA-256, so that a damaged one is recognised before it is used."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flagai.checkpoint.atomic import sync_tree
from flagai.errors import CheckpointError
from flagai.typed_json import read_json

Files = dict[str, dict[str, Any]]


def list_files(folder: Path) -> Files:
    """Size and SHA-256 of all files of a folder and its subfolders, by their relative paths."""
    return {path.relative_to(folder).as_posix(): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def check_files(folder: Path, files: Files) -> list[str]:
    """One line for each file that is absent or has other content than recorded; none if all is well.

    Args:
        folder: the folder.
        files: from :func:`list_files`.
    """
    return [f"{folder / name} {fault}" for name, entry in files.items() if (fault := _fault(folder / name, entry))]


def prefix_digest(path: Path, size: int) -> str:
    """The SHA-256 of the first ``size`` bytes of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that holds its own checksum, and bring its whole folder to the disk.

    Args:
        path: the file.
        content: what it says.
    """
    text = _text(content)
    record = {"content": content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    sync_tree(path.parent)


def read_record(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Args:
        path: the file.
        keys: what the content must have.

    Raises:
        CheckpointError: the file is absent or damaged, or another version of flagai wrote it.
    """
    record = read_json(path, CheckpointError)
    content = record.get("content")
    if record.get("sha256") != hashlib.sha256(_text(content).encode()).hexdigest():
        raise CheckpointError(f"{path} has not the content that was written, or another version of flagai wrote it.")
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise CheckpointError(f"{path} has not all of {', '.join(keys)}: another version of flagai wrote it.")
    return content


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=True, sort_keys=True)


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            return f"has {size} bytes instead of {entry['size']}"
        return None if _entry(path) == entry else "has other content than was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
