"""A folder with a record of its files: sizes and SHA-256, so that a damaged one is recognised before it is used."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flagai.checkpoint.atomic import sync_tree
from flagai.errors import CheckpointError
from flagai.typed_json import read_json

# Size and SHA-256 by the path in the folder.
Files = dict[str, dict[str, Any]]


def list_files(folder: Path) -> Files:
    """The record of all files of a folder and its subfolders."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_files(folder: Path, files: Files) -> list[str]:
    """One line for each file that is absent or has other content than recorded; none if all is well."""
    return [f"{folder / name} {fault}" for name, entry in files.items() if (fault := _fault(folder / name, entry))]


def _fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            return f"has {size} bytes instead of {entry['size']}"
        return None if _digest(path) == entry["sha256"] else "has other content than was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prefix_digest(path: Path, size: int = -1) -> str:
    """The SHA-256 of the first ``size`` bytes of a file, or of all."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def data_digest(data: str | Path | Iterable[Mapping[str, Any]]) -> str:
    """The SHA-256 of a file, of a folder's files, or of rows."""
    if not isinstance(data, str | Path):
        rows = (json.dumps(dict(row), ensure_ascii=False, default=str, sort_keys=True) for row in data)
        return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogatepass")).hexdigest()
    path = Path(data)
    return _checksum(list_files(path)) if path.is_dir() else prefix_digest(path)


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that holds its own checksum, and bring its whole folder to the disk."""
    record = {"content": content, "sha256": _checksum(content)}
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8", newline="\n")
    sync_tree(path.parent)


def read_record(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Raises:
        CheckpointError: the file is absent, damaged or without one of the keys, as another version of flagai writes it.
    """
    record = read_json(path, CheckpointError)
    content = record.get("content")
    if record.get("sha256") != _checksum(content):
        raise CheckpointError(f"{path} has not the content that was written, or another version of flagai wrote it.")
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise CheckpointError(f"{path} has not all of {', '.join(keys)}: another version of flagai wrote it.")
    return content


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
