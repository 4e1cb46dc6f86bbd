"""Where files come from: folders of this machine and of the web; `hubs.py` has the model hubs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

from flagai.catalog.packages import installed_folder
from flagai.errors import HubError
from flagai.hub.answers import version_of, whole_number
from flagai.hub.errors import RefusedError
from flagai.hub.manifest import Manifest
from flagai.hub.names import MANIFEST, check_address, safe_name, shown
from flagai.hub.web import Web


@dataclass(frozen=True)
class Link:
    """Where the bytes of a file are right now."""

    url: str  # http or https
    headers: Mapping[str, str] = field(default_factory=dict)  # to send along, to this host only
    size: int | None = None  # if this is where the size is told
    version: str | None = None  # what tells this version of the file from others, if it is told here


@dataclass(frozen=True)
class RemoteFile:
    """A file that a source offers; its name is safe."""

    name: str  # its path in the model's folder
    size: int | None = None
    sha256: str | None = None  # in lower-case hexadecimal digits
    git_sha1: str | None = None  # git's name for its content
    locate: Callable[[], Link] | None = None  # asked again when a link has expired
    path: Path | None = None  # where the file lies if it is on this machine
    measured: bool = False  # the size came with a link, so a later link may tell another
    again: Callable[[], Link] | None = None  # finds a new link, while `locate` may begin with one found before

    def __post_init__(self) -> None:
        safe_name(self.name)

    @property
    def unproven(self) -> bool:
        """Whether no checksum can tell that the right bytes came."""
        return self.sha256 is None and self.git_sha1 is None


@dataclass(frozen=True)
class Source:
    """What a description ``scheme:place@revision`` says, and the way to the network."""

    spec: str
    place: str
    revision: str | None
    web: Web
    names: Sequence[str] = ()  # what the model's card names, for a web folder, which has no list of files
    copies: bool = True  # whether a copy of a hub's repository on this machine will do


@dataclass(frozen=True)
class Offer:
    """All files of a source, and its revision, pinned."""

    revision: str | None
    files: list[RemoteFile]
    partial: bool = False  # whether the source may have more


def list_folder(source: Source) -> Offer:
    """``file:`` a folder of this machine."""
    location = source.spec.partition(":")[2].removeprefix("//")
    return Offer(None, files_below(Path(location).expanduser(), source.spec))


def list_package(source: Source) -> Offer:
    """``package:import_name/folder``, a folder of an installed package."""
    return Offer(None, files_below(installed_folder(source.spec.partition(":")[2]), source.spec))


def files_below(folder: Path | None, spec: str) -> list[RemoteFile]:
    """The files of a folder, without hidden ones."""
    if folder is None or not folder.is_dir():
        raise HubError(f"there is no folder {folder or spec}")
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        RemoteFile(name, path.stat().st_size, path=path)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    ]


def list_web(source: Source) -> Offer:
    """``https:`` a file, or a folder: as flagai's manifest in it says, or with the names of the model's card."""
    check_address(source.spec)
    address = urlsplit(source.spec)
    name = address.path.rpartition("/")[2]
    if "." in name:
        return Offer(None, [_web_file(source.web, name, source.spec)])
    if address.query:
        raise HubError("has a query (?...), which only the address of a single file can have")
    base = source.spec.rstrip("/") + "/"
    try:
        manifest = Manifest.parse(source.web.text("GET", base + MANIFEST), shown(base + MANIFEST))
    except RefusedError:
        if not source.names:
            raise HubError(f"has no {MANIFEST}, so its files are not known. Name them in a card.") from None
        return Offer(None, [_web_file(source.web, name, base + quote(name)) for name in source.names])
    return Offer(
        manifest.revision,
        [
            RemoteFile(name, entry.size, entry.sha256, locate=partial(Link, base + quote(name)))
            for name, entry in manifest.files.items()
        ],
    )


def _web_file(web: Web, name: str, url: str) -> RemoteFile:
    def locate() -> Link:
        try:
            with web.patiently(lambda: web.request("HEAD", url)) as response:
                size = whole_number(response.headers.get("Content-Length"))
                return Link(url, size=size, version=version_of(response))
        except RefusedError as error:
            if error.status in (404, 410):
                raise
            return Link(url)  # a server without HEAD

    return RemoteFile(name, locate=locate)
