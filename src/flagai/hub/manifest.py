"""The manifest ``.flagai.json``: what was fetched from where, so that it can be told from the user's own files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flagai.errors import HubError
from flagai.hub.names import MANIFEST, safe_name

_FORMAT = 1
_HEAD = 1 << 16
_READ = 1 << 22


@dataclass(frozen=True)
class Entry:
    """A fetched file.

    Args:
        size: bytes.
        sha256: of the content.
        head: sha256 of the first 64 KiB; tells a file that was cut from one that was rewritten.
        source: where it came from.
    """

    size: int
    sha256: str
    head: str
    source: str


@dataclass(frozen=True)
class Manifest:
    """What was fetched into a folder.

    Args:
        name: the model's name.
        source: the source of the listing.
        revision: the source's revision, pinned.
        listing: the names of all files that the source has.
        files: those that were fetched.
    """

    name: str
    source: str
    revision: str | None = None
    listing: tuple[str, ...] = ()
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """Read a manifest, if there is one.

        Raises:
            HubError: it is damaged.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise HubError(f"{path} is no manifest of flagai. Delete it.") from error

    @classmethod
    def parse(cls, text: str, place: str) -> "Manifest":
        """Understand the text of a manifest.

        Raises:
            HubError: it is none.
        """
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise HubError(f"{place} was written by another version of flagai. Update flagai, or delete it.")
            return cls(
                name=str(content["name"]),
                source=str(content["source"]),
                revision=content["revision"],
                listing=tuple(safe_name(name, place) for name in content["listing"]),
                files={safe_name(name, place): _entry(entry) for name, entry in content["files"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HubError(f"{place} is no manifest of flagai ({type(error).__name__}: {error}). Delete it.") from error

    def write(self, path: Path) -> None:
        """Write the manifest so that a reader sees the old or the new."""
        content = {
            "format": _FORMAT,
            "name": self.name,
            "source": self.source,
            "revision": self.revision,
            "listing": sorted(self.listing),
            "files": {name: vars(entry) for name, entry in sorted(self.files.items())},
        }
        write_json(path, content)

    def with_file(self, name: str, entry: Entry) -> "Manifest":
        """The same with one more file."""
        return replace(self, files={**self.files, name: entry})


def _entry(content: dict[str, Any]) -> Entry:
    return Entry(int(content["size"]), str(content["sha256"]), str(content["head"]), str(content["source"]))


def write_json(path: Path, content: object) -> None:
    """Write a small JSON file so that a reader sees the old or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece."""
    with path.open("rb") as file:
        while data := file.read(_READ):
            yield data


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    for data in pieces(path):
        digest.update(data)
        if advance is not None:
            advance(len(data))
    return digest.hexdigest()


def head_of(path: Path) -> str:
    """The sha256 of the first 64 KiB of a file."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HEAD)).hexdigest()


@dataclass(frozen=True)
class Finding:
    """The result of verifying a file.

    Args:
        name: the file.
        problem: what is wrong with it, or None.
    """

    name: str
    problem: str | None


def verify(folder: Path) -> Iterator[Finding]:
    """Hash every fetched file again and compare it with what was fetched.

    Raises:
        HubError: the folder has no manifest.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise HubError(f"{folder} has no {MANIFEST}, so nothing is known about what its files should be.")
    for name, entry in sorted(manifest.files.items()):
        yield Finding(name, _problem(folder / name, entry))


def _problem(path: Path, entry: Entry) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes instead of {entry.size}"
        return None if sha256_of(path) == entry.sha256 else "has another content than was fetched"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
