"""Where files come from: one small interface, and its plain implementations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from flagai.errors import HubError
from flagai.hub.errors import RefusedError
from flagai.hub.headers import version_of, whole_number
from flagai.hub.manifest import Manifest
from flagai.hub.names import MANIFEST, check_address, is_ours, safe_name, shown
from flagai.hub.web import Web


@dataclass(frozen=True)
class Link:
    """Where the bytes of a file are right now.

    Args:
        url: http or https.
        headers: what to send along, to this host only.
        size: bytes, if this is where the size is told.
        version: what tells this version of the file from others, if it is told here.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    version: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """A file that a source offers.

    Args:
        name: its path in the model's folder.
        size: bytes, if known before asking for it.
        sha256: of its content, in lower-case hexadecimal digits, if known.
        git_sha1: git's name for its content, if known.
        locate: finds the link; asked again when a link has expired.
        path: where the file lies if it is on this machine.
        measured: the size came with a link, so a later link may tell another.
        again: finds a new link, while ``locate`` may begin with one that was found before.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    locate: Callable[[], Link] | None = None
    path: Path | None = None
    measured: bool = False
    again: Callable[[], Link] | None = None

    @property
    def unproven(self) -> bool:
        """Whether no checksum can tell that the right bytes came."""
        return self.sha256 is None and self.git_sha1 is None


class FileSource(Protocol):
    """A place that has a model."""

    spec: str
    revision: str | None

    def files(self) -> list[RemoteFile]:
        """All files of the model; :class:`HubError` says why there are none."""


@dataclass
class LocalFolder:
    """A folder of this machine: ``file:`` and ``package:``."""

    spec: str
    folder: Path | None
    revision: str | None = None

    def files(self) -> list[RemoteFile]:
        """All files in the folder and below, without hidden ones."""
        if self.folder is None or not self.folder.is_dir():
            raise HubError(f"there is no folder {self.folder or self.spec}")
        found = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
                size = path.stat().st_size
                found.append(RemoteFile(safe_name(name, self.spec), size, path=path))
        return found


@dataclass
class WebFolder:
    """A folder or a file behind plain http(s).

    Such a folder has no list of its files, unless it was filled by flagai: then the manifest in it is the list, with
    sizes and sha256. Otherwise the names come from the model's card.
    """

    spec: str
    web: Web
    names: Sequence[str] = ()
    revision: str | None = None

    def files(self) -> list[RemoteFile]:
        """What the manifest lists, or what the card names."""
        check_address(self.spec)
        address = urlsplit(self.spec)
        name = address.path.rpartition("/")[2]
        if "." in name:
            return [self._remote(safe_name(name, shown(self.spec)), self.spec)]
        if address.query:
            raise HubError("has a query (?...), which only the address of a single file can have")
        base = self.spec.rstrip("/") + "/"
        manifest = self._manifest(base)
        if manifest is not None:
            self.revision = manifest.revision
            return [
                RemoteFile(name, entry.size, entry.sha256, locate=_fixed(base + quote(name)))
                for name, entry in manifest.files.items()
                if not is_ours(name)
            ]
        if not self.names:
            raise HubError(f"has no {MANIFEST}, so its files are not known. Name them in a card.")
        return [self._remote(safe_name(name, shown(base)), base + quote(name)) for name in self.names]

    def _manifest(self, base: str) -> Manifest | None:
        try:
            return Manifest.parse(self.web.text("GET", base + MANIFEST), shown(base + MANIFEST))
        except RefusedError:
            return None

    def _remote(self, name: str, url: str) -> RemoteFile:
        def locate() -> Link:
            try:
                with self.web.patiently(lambda: self.web.request("HEAD", url)) as response:
                    size = whole_number(response.headers.get("Content-Length"))
                    return Link(url, size=size, version=version_of(response))
            except RefusedError as error:
                if error.status in (404, 410):
                    raise
                return Link(url)  # a server without HEAD

        return RemoteFile(name, locate=locate)


def _fixed(url: str, headers: Mapping[str, str] | None = None) -> Callable[[], Link]:
    return lambda: Link(url, headers or {})
