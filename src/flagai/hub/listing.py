"""The files of one source that belong to a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flagai.catalog.card import ModelFile
from flagai.catalog.packages import installed_folder
from flagai.errors import HubError
from flagai.hub.errors import RefusedError
from flagai.hub.hubs import Baai, HuggingFace, HuggingFaceCache, ModelScope
from flagai.hub.names import choose, has_vocabulary, public
from flagai.hub.request import DownloadRequest
from flagai.hub.sources import FileSource, Link, LocalFolder, RemoteFile, WebFolder
from flagai.hub.web import Web


@dataclass(frozen=True)
class Listing:
    """What one source has of what was asked for.

    Args:
        spec: the source, without secrets.
        revision: pinned.
        names: of all its files.
        files: those that belong to the request.
    """

    spec: str
    revision: str | None
    names: tuple[str, ...]
    files: list[RemoteFile]

    @property
    def total(self) -> int | None:
        """The bytes of all files, if every size is known."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


def open_source(spec: str, web: Web, names: Sequence[str] = (), revision: str | None = None) -> FileSource:
    """Make a source from its description ``scheme:location@revision``; nothing is asked yet.

    Args:
        spec: ``baai:GLM-large-ch``, ``hf:owner/name@revision``, ``modelscope:owner/name@revision``,
            ``https://host/folder/``, ``file:/folder`` or ``package:import_name/folder``.
        web: the way to the network.
        names: what to look for in a https folder, which has no list of files.
        revision: the revision if the description has none.

    Raises:
        HubError: the description has no known scheme.
    """
    scheme, _, location = spec.partition(":")
    if spec != spec.encode(errors="ignore").decode():
        raise HubError(f"{spec!r} is no source: half a character (a lone surrogate) is in it")
    if scheme in ("https", "http"):
        return WebFolder(spec, web, names)
    if scheme == "file":
        return LocalFolder(spec, Path(location.removeprefix("//")).expanduser())
    if scheme == "package":
        return LocalFolder(spec, installed_folder(location))
    place, _, stated = location.partition("@")
    known: dict[str, Callable[..., FileSource]] = {
        "baai": Baai,
        "hf": HuggingFace,
        "hf-cache": HuggingFaceCache,
        "modelscope": ModelScope,
    }
    if scheme not in known or not place:
        schemes = ", ".join(f"{name}:" for name in (*known, "https", "file", "package"))
        raise HubError(f"{public(spec)!r} is no source. Known: {schemes}")
    return known[scheme](spec, place, stated or revision, web)


def list_files(request: DownloadRequest, spec: str, web: Web, revision: str | None = None) -> Listing:
    """List the files of a source; sizes are found out for the chosen files only.

    Args:
        request: what is asked for.
        spec: the source, without secrets.
        web: the way to the network.
        revision: the revision to take if the source's description names none.

    Raises:
        HubError: it has not everything, or another version than the card knows.
    """
    names = tuple(dict.fromkeys(file.name for file in request.model.files))
    source = open_source(spec, web, names, revision)
    remotes = {file.name: file for file in source.files()}
    if len(remotes) > request.policy.most_files:
        raise HubError(f"lists more than {request.policy.most_files} files")
    if spec.startswith("hf-cache:") and "tokenizer" in request.wanted and not has_vocabulary(list(remotes)):
        raise HubError("the copy on this machine has no vocabulary; only the hub knows whether there is one")
    chosen = choose(list(remotes), request.wanted, "it")
    files = [_measured(_checked(remotes[name], request.expected(name, spec))) for name in chosen]
    return Listing(public(spec), source.revision, tuple(remotes), files)


def _checked(remote: RemoteFile, known: ModelFile | None) -> RemoteFile:
    """Join what the source says with what the card knows."""
    if known is None:
        return remote
    for what, stated, right in (("size", remote.size, known.size), ("sha256", remote.sha256, known.sha256)):
        if stated is not None and right is not None and stated != right:
            raise HubError(f"has another version of {remote.name}: its {what} is {stated}, not {right} as in the card")
    size = remote.size if remote.size is not None else known.size
    return replace(remote, size=size, sha256=remote.sha256 or known.sha256)


def _measured(remote: RemoteFile) -> RemoteFile:
    """Find out the size where it comes with the link; the link is used once, so nothing is asked twice."""
    locate = remote.locate
    if remote.size is not None or locate is None:
        return remote
    try:
        links: list[Link] = [locate()]
    except RefusedError:
        return remote  # tells about it when it is fetched; other sources may have it
    size = links[0].size
    return replace(remote, size=size, measured=True, locate=lambda: links.pop() if links else locate(), again=locate)


def first_listing(request: DownloadRequest) -> Listing:
    """The listing of the first source that has everything; nothing is written.

    Raises:
        HubError: none has.
    """
    web, failures = Web(request.policy), []
    for spec in request.specs():
        try:
            return list_files(request, spec, web)
        except HubError as error:
            failures.append((public(spec), str(error)))
    raise HubError(report(request, failures))


def report(request: DownloadRequest, failures: list[tuple[str, str]]) -> str:
    """One message that lists what each source said."""
    name = request.model.name
    lines = [f"  {spec}: {text}" for spec, text in failures if not spec.startswith("hf-cache:")] or [
        f"  {spec}: {text}" for spec, text in failures
    ]
    text = f"{name} could not be fetched into {request.folder}. "
    text += "What each source said:\n" + "\n".join(lines) if lines else "It has no source that can be asked."
    text += f"{request.advice()}\nWhat has arrived is kept for the next call. "
    text += f"Files that you put into {request.folder} yourself are used as they are. "
    return text + "Mirrors: HF_ENDPOINT, FLAGAI_BAAI_URL, --source. FLAGAI_OFFLINE=1 asks nobody."
