"""The manifest ``.flagai.json``: what was fetched from where, so that it can be told from the user's own files."""

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from flagai.errors import HubError
from flagai.hub.names import MANIFEST, safe_name
from flagai.system import patiently
from flagai.typed_json import Fields, open_regular, parse_json

logger = logging.getLogger(__name__)
_FORMAT = 1
_HEADS = (1 << 8, 1 << 12, 1 << 16)
_READ = 1 << 22
_LONGEST = 32 << 20
_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ManifestEntry:
    """A fetched file."""

    size: int
    sha256: str
    heads: tuple[str, ...]  # sha256 of the first 256 bytes, 4 KiB and 64 KiB: they tell a cut file from a rewritten one
    source: str
    version: str | None = None  # what told this version from others, where the source lists no checksums

    @classmethod
    def of(cls, path: Path, sha256: str, source: str, version: str | None = None) -> "ManifestEntry":
        """Describe a file whose checksum is known."""
        return cls(path.stat().st_size, sha256, heads_of(path), source, version)

    def was_cut(self, path: Path) -> bool:
        """Whether a file is a mere beginning of what was fetched: a disk was full, or a copy was interrupted."""
        size = path.stat().st_size
        if size == 0 or size >= self.size:
            return size < self.size
        heads = heads_of(path)
        return bool(heads) and heads == self.heads[: len(heads)]


@dataclass(frozen=True)
class Manifest:
    """What was fetched into a folder."""

    name: str  # the model's
    source: str
    revision: str | None = None  # pinned
    listing: tuple[str, ...] = ()  # the names of all files that the source has
    files: dict[str, ManifestEntry] = field(default_factory=dict)  # those that were fetched

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """Read a manifest, if there is one; `HubError` if it is damaged."""
        try:
            with open_regular(path) as file:
                text = file.read(_LONGEST + 1).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise HubError(f"{path} is not a manifest of flagai. Delete it.") from error
        except OSError as error:  # a folder, or a file of another program
            raise HubError(f"{path} cannot be read as a manifest ({error.strerror}). Move it away.") from error
        return cls.parse(text, str(path))

    @classmethod
    def journal(cls, path: Path) -> "Manifest | None":
        """Read a manifest that says how far a download is; one that a power failure has damaged counts as absent."""
        try:
            return cls.read(path)
        except HubError as error:
            logger.warning("%s It is passed over.", error)
            return None

    @classmethod
    def parse(cls, text: str, place: str) -> "Manifest":
        """Understand the text of a manifest; `HubError` if it is none."""
        try:
            content = parse_json(text, place, HubError)
            fields = Fields(content if isinstance(content, dict) else {}, place, HubError)
            if fields.integer("format", _FORMAT) != _FORMAT:
                raise HubError("written by another version of flagai. Update flagai")
            files = fields.mapping("files")
            return cls(
                name=_required(fields, "name"),
                source=_required(fields, "source"),
                revision=fields.text("revision", None),
                listing=tuple(safe_name(name, place) for name in fields.texts("listing")),
                files={safe_name(name, place): _entry(files, name, place) for name in files},
            )
        except HubError as error:
            raise HubError(f"{place} is not a manifest of flagai ({error}). Delete it.") from error

    def write(self, path: Path) -> None:
        """Write the manifest so that a reader sees the old or the new."""
        files = {name: vars(entry) for name, entry in sorted(self.files.items())}
        write_json(path, {"format": _FORMAT, **vars(self), "listing": sorted(self.listing), "files": files})

    def with_file(self, name: str, entry: ManifestEntry) -> "Manifest":
        """The same with one more file."""
        return replace(self, files={**self.files, name: entry})


def _required(fields: Fields, name: str) -> str:
    return fields.text(name, None) or fields.wrong(name, "a text")


def _entry(files: dict[str, Any], name: str, place: str) -> ManifestEntry:
    fields = Fields(Fields(files, place, HubError).mapping(name), f"{place}, {name}", HubError)
    size, sha256 = fields.integer("size", -1), fields.text("sha256", "")
    if size < 0:
        fields.wrong("size", "a number of bytes")
    if not _SHA256.fullmatch(sha256):  # without one, nothing would be verified
        fields.wrong("sha256", "a sha256 in hexadecimal digits")
    heads = tuple(fields.texts("heads"))
    return ManifestEntry(size, sha256.lower(), heads, _required(fields, "source"), fields.text("version", None))


def write_json(path: Path, content: object) -> None:
    """Write a small JSON file so that a reader sees the old or the new, also after a power failure."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")  # threads and nodes write at the same time
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        patiently(lambda: temporary.replace(path))
    except BaseException:  # the disk is full, or Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 of a file; ``advance`` is told the number of bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ):
            digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def git_sha1_of(path: Path) -> str:
    """The sha1 by which git names the content of a file."""
    header = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


def heads_of(path: Path) -> tuple[str, ...]:
    """The sha256 of several beginnings of a file, the shortest first."""
    with path.open("rb") as file:
        begin = file.read(_HEADS[-1])
    return tuple(hashlib.sha256(begin[:size]).hexdigest() for size in _HEADS if size <= len(begin))


class Verification(NamedTuple):
    """The result of verifying a file."""

    name: str
    problem: str | None  # what is wrong with it


def verify(folder: Path) -> Iterator[Verification]:
    """Hash every fetched file again and compare it with what was fetched.

    Raises:
        HubError: the folder has no manifest.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise HubError(f"{folder} has no {MANIFEST}, so nothing is known about what its files should be.")
    for name, entry in sorted(manifest.files.items()):
        yield Verification(name, _problem(folder / name, entry))


def _problem(path: Path, entry: ManifestEntry) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes instead of {entry.size}"
        return None if sha256_of(path) == entry.sha256 else "has another content than was fetched"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
