"""The three model hubs: BAAI, Hugging Face and ModelScope; their answers are parsed, never evaluated."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin

from flagai import settings
from flagai.errors import HubError, quoted
from flagai.hub.answers import whole_number
from flagai.hub.errors import CancelledError, RefusedError
from flagai.hub.sources import Link, Offer, RemoteFile, Source, files_below

_MISSING_FILE = "40002"


def list_baai(source: Source) -> Offer:
    """A name gives an id, id and file name give a ticket, which has the URL and the size."""
    base, web, query = settings.baai_url(), source.web, urlencode({"model_name": source.place})
    model_id = web.text("GET", f"{base}/api/searchModleByName?{query}").strip().strip('"')
    if model_id in ("null", "", "None"):
        raise HubError(f"has no model {source.place!r}")
    if not model_id.isalnum():
        raise HubError(f"answered {quoted(model_id, 80)!r} where the id of a model is expected")
    names = web.json("GET", f"{base}/api/searchModelFileByName?{query}")
    if not isinstance(names, list):
        raise HubError(f"answered {quoted(names, 80)!r} where a list of files is expected")

    def ticket(name: str) -> Link:
        body = {"model_id": model_id, "checkpoint_name": name}
        answer = web.json("POST", f"{base}/api/downloadCode", body=body)
        code = str(_at(answer, "code"))
        if code == _MISSING_FILE:
            raise RefusedError(f"has no file {name}; it has {quoted(_at(answer, 'files'))}", 404)
        link = _joined(base, _at(answer, "url"))
        if link is None:
            raise HubError(f"gave no link for {name}, but the code {quoted(code)}")
        return Link(link, size=_size(_at(answer, "size")))

    return Offer(source.revision, [RemoteFile(name, locate=partial(ticket, name)) for name in names])


def list_hugging_face(source: Source) -> Offer:
    """Hugging Face or a mirror: one request lists a repository with sizes and hashes, pinned to its commit.

    The hub is asked even where its own library has fetched the files: only it knows whether that copy is whole. The
    bytes come from the copy, which also serves where the hub does not answer.
    """
    base, place, revision = settings.hf_url(), source.place, source.revision or "main"
    url = f"{base}/api/models/{quote(place)}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        token = _hf_token()
        answer = source.web.json("GET", url, token)
    except CancelledError:
        raise
    except HubError as error:
        copy = _in_hf_cache(place, "config.json", source.revision) if source.copies else None
        if copy is not None:
            return Offer(copy.parent.name, _blobs(files_below(copy.parent, source.spec)), partial=True)
        if not isinstance(error, RefusedError) or error.status not in (401, 403):
            raise
        hint = f"{place} is private, gated or absent: accept its terms in a browser and set HF_TOKEN"
        raise RefusedError(f"{error}. {hint}", error.status) from error
    entries, commit = _at(answer, "siblings"), _at(answer, "sha")
    if not isinstance(entries, list):
        raise HubError("lists no files")
    pinned = commit if isinstance(commit, str) and 0 < len(commit) <= 200 else revision
    address = f"{base}/{place}/resolve/{quote(pinned, safe='')}"

    def remote(entry: Mapping[str, Any]) -> RemoteFile:
        large, size = entry.get("lfs"), _size(entry.get("size"))
        file = RemoteFile(
            entry.get("rfilename", ""),
            size,
            _digest(_at(large, "sha256"), 64),
            None if large else _digest(entry.get("blobId"), 40),
            locate=lambda: Link(f"{address}/{quote(file.name)}", token),
        )
        cached = _in_hf_cache(place, file.name, pinned)
        fits = cached is not None and size in (None, cached.stat().st_size)
        return replace(file, path=cached) if fits else file

    return Offer(pinned, [remote(entry) for entry in entries if isinstance(entry, dict)])


def _blobs(files: list[RemoteFile]) -> list[RemoteFile]:
    """Files of a copy with their checksums: each is a link to a blob that is called by the hash of its content."""
    names = [file.path.resolve().name if file.path is not None else "" for file in files]
    pairs = zip(files, names, strict=True)
    return [replace(file, sha256=_digest(name, 64), git_sha1=_digest(name, 40)) for file, name in pairs]


def list_modelscope(source: Source) -> Offer:
    """One request lists a revision with sizes and sha256."""
    revision = source.revision or "master"
    base = f"{settings.modelscope_url()}/api/v1/models/{quote(source.place)}/repo"
    token = _modelscope_token()
    answer = source.web.json("GET", f"{base}/files?{urlencode({'Revision': revision, 'Recursive': 'True'})}", token)
    entries = _at(answer, "Data", "Files")
    if not isinstance(entries, list):
        said = quoted(_at(answer, "Message") if isinstance(answer, dict) else answer)
        hint = "" if token else ". If it is private, set MODELSCOPE_API_TOKEN"
        raise HubError(f"lists no files: {said}{hint}")

    def remote(entry: Mapping[str, Any]) -> RemoteFile:
        name = entry.get("Path", "")
        return RemoteFile(
            name,
            _size(entry.get("Size")),
            _digest(entry.get("Sha256"), 64),
            locate=lambda: Link(f"{base}?{urlencode({'Revision': revision, 'FilePath': name})}", token),
        )

    listed = [entry for entry in entries if isinstance(entry, dict) and entry.get("Type") != "tree"]
    return Offer(revision, [remote(entry) for entry in listed])


def _at(answer: Any, *path: str) -> Any:
    """What an answer holds under names within names; None if it is of another shape."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _size(value: object) -> int | None:
    if isinstance(value, str):
        value = whole_number(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _joined(base: str, url: object) -> str | None:
    """A link as an absolute one, if it is one of http."""
    try:
        link = urljoin(f"{base}/", url) if isinstance(url, str) and url else ""
    except ValueError:
        return None
    return link if link.startswith(("http://", "https://")) else None


def _digest(value: object, length: int) -> str | None:
    text = str(value).lower()
    return text if len(text) == length and set(text) <= set("0123456789abcdef") else None


def hugging_face_token() -> str | None:
    """The user's token: from the environment, or as ``hf auth login`` has stored it; None without one."""
    from huggingface_hub import get_token

    return _checked_token(settings.hf_token() or get_token(), "Hugging Face token (HF_TOKEN, or hf auth login)")


def modelscope_token() -> str | None:
    """The user's token for ModelScope; None without one."""
    return _checked_token(settings.modelscope_token(), "ModelScope token (MODELSCOPE_API_TOKEN)")


def _hf_token() -> dict[str, str]:
    """The header with the user's token."""
    token = hugging_face_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _modelscope_token() -> dict[str, str]:
    """The header with the user's token, as ModelScope's own library sends it."""
    token = modelscope_token()
    return {"Cookie": f"m_session_id={token}"} if token else {}


def _checked_token(token: str | None, name: str) -> str | None:
    if token and not re.fullmatch("[!-:<-~]+", token):  # a semicolon would begin another cookie
        raise HubError(f"The {name} has a line break, a space or another character that no token has. Set it again.")
    return token


def _in_hf_cache(repository: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, cache_dir=settings.hf_cache(), revision=revision)
    except ValueError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None
