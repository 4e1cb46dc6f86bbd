"""The three model hubs: BAAI, Hugging Face and ModelScope.

Their answers are parsed, never evaluated, and every name in them is checked before it becomes a path.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin

from flagai import settings
from flagai.errors import HubError, quoted
from flagai.hub.errors import RefusedError
from flagai.hub.headers import whole_number
from flagai.hub.names import is_ours, safe_name
from flagai.hub.sources import Link, LocalFolder, RemoteFile
from flagai.hub.web import Web

_MISSING_FILE = "40002"


@dataclass
class Baai:
    """The BAAI model hub: a name gives an id, id and file name give a ticket, the ticket has the URL."""

    spec: str
    model: str
    revision: str | None
    web: Web

    def files(self) -> list[RemoteFile]:
        """The hub tells names only; sizes come with the tickets."""
        query = urlencode({"model_name": self.model})
        base = settings.baai_url()
        model_id = self.web.text("GET", f"{base}/api/searchModleByName?{query}").strip().strip('"')
        if model_id in ("null", "", "None"):
            raise HubError(f"has no model {self.model!r}")
        if not model_id.isalnum():
            raise HubError(f"answered {quoted(model_id, 80)!r} where the id of a model is expected")
        names = self.web.json("GET", f"{base}/api/searchModelFileByName?{query}")
        if not isinstance(names, list):
            raise HubError(f"answered {quoted(names, 80)!r} where a list of files is expected")
        safe = [safe_name(name, self.spec) for name in names]
        return [RemoteFile(name, locate=self._ticket(base, model_id, name)) for name in safe if not is_ours(name)]

    def _ticket(self, base: str, model_id: str, name: str) -> Callable[[], Link]:
        def locate() -> Link:
            body = {"model_id": model_id, "checkpoint_name": name}
            answer = self.web.json("POST", f"{base}/api/downloadCode", body=body)
            code = str(answer.get("code")) if isinstance(answer, dict) else "none"
            if code == _MISSING_FILE:
                raise RefusedError(f"has no file {name}; it has {quoted(answer.get('files'))}", 404)
            url, size = (answer.get("url"), answer.get("size")) if isinstance(answer, dict) else (None, None)
            link = _joined(base, url)
            if link is None:
                raise HubError(f"gave no link for {name}, but the code {quoted(code)}")
            return Link(link, size=_size(size))

        return locate


@dataclass
class HuggingFace:
    """The Hugging Face hub, or a mirror of it; one request lists a repository with sizes and hashes."""

    spec: str
    repository: str
    revision: str | None
    web: Web

    def files(self) -> list[RemoteFile]:
        """All files of the revision, which is pinned to its commit."""
        base, headers = settings.hf_url(), _hf_headers()
        revision = self.revision or "main"
        url = f"{base}/api/models/{quote(self.repository)}/revision/{quote(revision, safe='')}?blobs=true"
        try:
            answer = self.web.json("GET", url, headers)
        except RefusedError as error:
            raise RefusedError(f"{error}{_hf_hint(error.status, self.repository)}", error.status) from error
        entries = answer.get("siblings") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise HubError("lists no files")
        commit = answer.get("sha")
        self.revision = commit if isinstance(commit, str) and 0 < len(commit) <= 200 else revision
        files = [self._remote(entry, base, headers) for entry in entries if isinstance(entry, dict)]
        return [file for file in files if not is_ours(file.name)]

    def _remote(self, entry: Mapping[str, Any], base: str, headers: Mapping[str, str]) -> RemoteFile:
        name = safe_name(entry.get("rfilename"), self.spec)
        large = entry.get("lfs")
        sha256 = _digest(large.get("sha256"), 64) if isinstance(large, dict) else None
        url = f"{base}/{self.repository}/resolve/{quote(self.revision or 'main', safe='')}/{quote(name)}"
        size = _size(entry.get("size"))
        cached = _in_hf_cache(self.repository, name, self.revision)
        if cached is not None and size is not None and cached.stat().st_size != size:
            cached = None
        return RemoteFile(
            name,
            size,
            sha256,
            None if large else _digest(entry.get("blobId"), 40),
            locate=lambda: Link(url, headers),
            path=cached,
        )


class HuggingFaceCache:
    """What Hugging Face's own library has already fetched; used as a whole where the hub does not answer."""

    def __init__(self, spec: str, repository: str, revision: str | None, _web: Web) -> None:
        self.spec = spec
        self.repository = repository
        self.revision = revision

    def files(self) -> list[RemoteFile]:
        """All files of the snapshot on this machine, which may be a part of the repository."""
        config = _in_hf_cache(self.repository, "config.json", self.revision)
        if config is None:
            raise HubError(f"holds no snapshot of {self.repository}")
        self.revision = config.parent.name
        return [_hashed(file) for file in LocalFolder(self.spec, config.parent).files()]


@dataclass
class ModelScope:
    """The ModelScope hub."""

    spec: str
    model: str
    revision: str | None
    web: Web

    def files(self) -> list[RemoteFile]:
        """All files of the revision, with sizes and sha256."""
        revision = self.revision or "master"
        base = f"{settings.modelscope_url()}/api/v1/models/{quote(self.model)}/repo"
        answer = self.web.json("GET", f"{base}/files?{urlencode({'Revision': revision, 'Recursive': 'True'})}")
        data = answer.get("Data") if isinstance(answer, dict) else None
        entries = data.get("Files") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            said = answer.get("Message") if isinstance(answer, dict) else answer
            raise HubError(f"lists no files: {quoted(said)}")
        self.revision = revision
        return [
            self._remote(entry, base, revision)
            for entry in entries
            if isinstance(entry, dict) and entry.get("Type") != "tree" and not is_ours(str(entry.get("Path")))
        ]

    def _remote(self, entry: Mapping[str, Any], base: str, revision: str) -> RemoteFile:
        name = safe_name(entry.get("Path"), self.spec)
        url = f"{base}?{urlencode({'Revision': revision, 'FilePath': name})}"
        sha256 = _digest(entry.get("Sha256"), 64)
        return RemoteFile(name, _size(entry.get("Size")), sha256, locate=lambda: Link(url))


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


def _hf_headers() -> dict[str, str]:
    """The user's token: from the environment, or as ``hf auth login`` has stored it."""
    from huggingface_hub import get_token

    token = settings.hf_token() or get_token()
    if token and not re.fullmatch("[!-~]+", token):
        raise HubError(
            "The Hugging Face token (HF_TOKEN, or hf auth login) has a line break, a space or another character "
            "that no token has. Set it again."
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


def _hf_hint(status: int, repository: str) -> str:
    if status in (401, 403):
        return f". {repository} is private, gated or absent: accept its terms in a browser and set HF_TOKEN"
    return ""


def _hashed(file: RemoteFile) -> RemoteFile:
    """Add what the cache knows of a file: there it is a link to a blob that is called by the hash of its content."""
    blob = file.path.resolve().name if file.path is not None else None
    return replace(file, sha256=_digest(blob, 64), git_sha1=_digest(blob, 40))


def _in_hf_cache(repository: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, cache_dir=settings.hf_cache(), revision=revision)
    except ValueError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None
