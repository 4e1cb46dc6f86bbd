"""The files of one source that belong to a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flagai.catalog.card import ModelFile
from flagai.errors import HubError
from flagai.hub.errors import RefusedError
from flagai.hub.hubs import list_baai, list_hugging_face, list_modelscope
from flagai.hub.names import choose, has_vocabulary, is_ours, public
from flagai.hub.request import DownloadRequest
from flagai.hub.sources import Link, Offer, RemoteFile, Source, list_folder, list_package, list_web
from flagai.hub.web import Web

_LISTERS: dict[str, Callable[[Source], Offer]] = {
    "baai": list_baai,
    "hf": list_hugging_face,
    "modelscope": list_modelscope,
    "https": list_web,
    "http": list_web,
    "file": list_folder,
    "package": list_package,
}


@dataclass(frozen=True)
class Listing:
    """What one source has of what was asked for."""

    spec: str  # the source, without secrets
    revision: str | None  # pinned
    names: tuple[str, ...]  # of all its files
    files: list[RemoteFile]  # those that belong to the request


def total_size(files: Sequence[RemoteFile]) -> int | None:
    """The bytes of all files, if every size is known."""
    sizes = [file.size for file in files if file.size is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def list_files(request: DownloadRequest, spec: str, web: Web, revision: str | None = None) -> Listing:
    """List the files of a source; sizes are found out for the chosen files only.

    Args:
        request: what is asked for.
        spec: ``baai:GLM-large-ch``, ``hf:owner/name@revision``, ``modelscope:owner/name@revision``,
            ``https://host/folder/``, ``file:/folder`` or ``package:import_name/folder``.
        web: the way to the network.
        revision: the revision to take if ``spec`` names none.

    Raises:
        HubError: it has not everything, or another version than the card knows.
    """
    offer = _offer(request, spec, web, revision)
    remotes = {file.name: file for file in offer.files if not is_ours(file.name)}
    if len(remotes) > request.policy.most_files:
        raise HubError(f"lists more than {request.policy.most_files} files")
    if offer.partial and "tokenizer" in request.wanted and not has_vocabulary(list(remotes)):
        raise HubError("the copy on this machine has no vocabulary; only the hub knows whether there is one")
    chosen = choose(list(remotes), request.wanted)
    files = [_measured(_checked(remotes[name], request.expected(name, spec))) for name in chosen]
    return Listing(public(spec), offer.revision, tuple(remotes), files)


def _offer(request: DownloadRequest, spec: str, web: Web, revision: str | None) -> Offer:
    if spec != spec.encode(errors="ignore").decode():
        raise HubError(f"{spec!r} is not a source: half a character (a lone surrogate) is in it")
    scheme, _, location = spec.partition(":")
    place, _, stated = location.partition("@")
    if scheme not in _LISTERS or not place:
        raise HubError(f"{public(spec)!r} is not a source. Known: {', '.join(f'{name}:' for name in _LISTERS)}")
    names = tuple(dict.fromkeys(file.name for file in request.model.files))
    return _LISTERS[scheme](Source(spec, place, stated or revision, web, names, copies=not request.force))


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
    lines = "".join(f"\n  {spec}: {text}" for spec, text in failures)
    said = f"What each source said:{lines}" if lines else "It has no source that can be asked."
    return (
        f"{request.model.name} could not be fetched into {request.folder}. {said}{request.advice()}\nWhat has arrived "
        f"is kept for the next call. Files that you put into {request.folder} yourself are used as they are. Mirrors: "
        "HF_ENDPOINT=https://hf-mirror.com, MODELSCOPE_DOMAIN, FLAGAI_BAAI_URL, --source. "
        "FLAGAI_OFFLINE=1 disables downloads."
    )
