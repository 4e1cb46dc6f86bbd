"""A real HTTP server that speaks the protocols of the hubs, and misbehaves on command."""

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """How the server misbehaves for a file.

    ``status`` answers so; ``cut`` closes after so many bytes; ``claim`` lies about the length; ``whole`` ignores Range;
    ``drip`` sends a byte at a time; ``corrupt`` flips bytes; ``redirect`` leads elsewhere; ``gzip`` compresses.
    ``times`` limits how often; ``change`` is the content from the request after ``after`` on.
    """

    status: int | None = None
    retry_after: str | None = None
    cut: int | None = None
    claim: int = 0
    whole: bool = False
    drip: float = 0.0
    corrupt: bool = False
    redirect: str | None = None
    times: int = 1 << 30
    change: bytes | None = None
    after: int = 0
    slow: float = 0.0
    gzip: bool = False


@dataclass
class Sent:
    """One entry of the log: what was asked for, and which bytes left."""

    method: str
    path: str
    range: str | None
    status: int = 0
    start: int = 0
    count: int = 0
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """The server's state: models by name, faults by file name, the log."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.log: list[Sent] = []
        self.lock = threading.Lock()
        self.etags = True
        self.weak = False  # ETags that promise little
        self.conditions = True  # whether If-Range is understood
        self.gzip = False  # whether listings come compressed, though nobody asked for that
        self.listing: list[str] | None = None
        self.ticket: dict[str, Any] = {}
        self.speed = 0.0  # seconds between pieces of 64 KiB, for transfers that shall take a while

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bytes_sent(self, name: str) -> list[tuple[int, int]]:
        """The ranges of a file that left, sorted."""
        return sorted((e.start, e.start + e.count) for e in self.log if e.path.endswith(name) and e.count)

    def requests(self, word: str = "") -> list[Sent]:
        return [entry for entry in self.log if word in entry.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.entry = Sent("POST", self.path, None, body=body)
        self.server.log.append(self.entry)
        if self.path != "/api/downloadCode":
            return self._answer(404, b"no")
        model = next((n for n in self.server.models if self._id(n) == body["model_id"]), None)
        files = self.server.models.get(model or "", {})
        name = body["checkpoint_name"]
        if name not in files:
            return self._json({"code": "40002", "files": sorted(files)})
        ticket = {"code": "200", "url": f"{self.server.url}/files/{model}/{name}", "size": len(files[name])}
        return self._json({**ticket, **self.server.ticket})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.entry = Sent(self.command, path, self.headers.get("Range"), headers=dict(self.headers))
        with self.server.lock:
            self.server.log.append(self.entry)
        models = self.server.models
        if path == "/api/searchModleByName":
            found = next((n for n in models if n.lower() == query["model_name"].lower()), None)
            return self._answer(200, self._id(found).encode() if found else b"null")
        if path == "/api/searchModelFileByName":
            return self._json(self._names(query["model_name"]))
        if path.startswith("/api/models/"):
            return self._hf_list(path.removeprefix("/api/models/").partition("/revision/")[0])
        if path.startswith("/api/v1/models/"):
            return self._modelscope(path.removeprefix("/api/v1/models/"), query)
        if "/resolve/" in path:
            model, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            if revision not in ("main", COMMIT):
                return self._answer(404, b"no")
            if name.endswith((".bin", ".safetensors")):  # large files lie elsewhere, as with LFS
                return self._redirect(f"/cdn/{model}/{name}?signature=secret")
            return self._file(models.get(model, {}), name)
        if path.startswith(("/files/", "/cdn/", "/plain/")):
            rest = path.split("/", 2)[2]
            model = next((n for n in models if rest.startswith(n + "/")), "")
            return self._file(models.get(model, {}), rest.removeprefix(model + "/"))
        return self._answer(404, b"no such page")

    def _names(self, model: str) -> list[str]:
        return self.server.listing or sorted(self.server.models.get(model, {}))

    @staticmethod
    def _id(name: str) -> str:
        return str(100000 + sum(name.encode()))

    def _hf_list(self, model: str) -> None:
        if model not in self.server.models:
            self.extra = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            return self._answer(404, b"{}")
        siblings = []
        for name in self._names(model):
            content = self.server.models[model].get(name, b"")
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith((".bin", ".safetensors")):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return self._json({"id": model, "sha": COMMIT, "siblings": siblings})

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        model, _, rest = path.partition("/repo")
        files = self.server.models.get(model)
        if files is None:
            return self._json({"Code": 10010205001, "Message": "model not found", "Success": False})
        if rest == "/files":
            entries = [
                {"Path": n, "Name": n, "Size": len(c), "Sha256": sha256(c), "Type": "blob"} for n, c in files.items()
            ]
            return self._json({"Code": 200, "Data": {"Files": [*entries, {"Path": "dir", "Type": "tree"}]}})
        self.entry.path += "/" + query["FilePath"]
        return self._file(files, query["FilePath"])

    def _file(self, files: dict[str, bytes], name: str) -> None:
        fault = self._fault(files, name)
        if fault.status:
            self.extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return self._answer(fault.status, b"busy")
        if fault.redirect:
            return self._redirect(fault.redirect)
        if name not in files:
            return self._answer(404, b"no such file")
        content = files[name]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start, end = self._range(len(content), etag, fault)
        if start >= len(content) > 0:
            return self._answer(416, b"")
        body = content[start:end]
        if fault.corrupt:
            body = bytes(255 - byte for byte in body)
        told = 'W/"much the same"' if self.server.weak else etag
        self.extra = {"ETag": told} if self.server.etags else {}
        if fault.gzip:
            self.extra["Content-Encoding"] = "gzip"
        if self._partial:
            self.extra["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self.entry.start = start
        self._head(206 if self._partial else 200, len(body) + fault.claim)
        if self.command != "HEAD":
            self._send(body, fault)
        return None

    def _fault(self, files: dict[str, bytes], name: str) -> Fault:
        with self.server.lock:
            fault = self.server.faults.get(name, Fault())
            if fault.times <= 0:
                return Fault()
            fault.times -= 1
            fault.after -= 1
            if fault.change is not None and fault.after < 0:
                files[name] = fault.change
            return fault

    def _range(self, size: int, etag: str, fault: Fault) -> tuple[int, int]:
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range") if self.server.conditions else None
        self._partial = bool(wanted) and not fault.whole and condition in (None, etag)
        if not self._partial or wanted is None:
            return 0, size
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        return int(first), min(size, int(last) + 1) if last else size

    def _send(self, body: bytes, fault: Fault) -> None:
        step = 1 if fault.drip else 1 << 16
        limit = len(body) if fault.cut is None else min(fault.cut, len(body))
        try:
            for position in range(0, limit, step):
                piece = body[position : min(position + step, limit)]
                self.wfile.write(piece)
                self.entry.count += len(piece)
                if fault.drip or fault.slow or self.server.speed:
                    time.sleep(fault.drip or fault.slow or self.server.speed)
        except OSError:
            self.close_connection = True
        if fault.cut is not None or fault.claim:
            self.close_connection = True

    extra: dict[str, str] = {}

    def _redirect(self, place: str) -> None:
        self.extra = {"Location": place}
        self._answer(302, b"")

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        if self.server.gzip:
            self.extra, body = {"Content-Encoding": "gzip"}, gzip.compress(body)
        self._answer(200, body)

    def _answer(self, status: int, body: bytes) -> None:
        self._head(status, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in {**self.extra, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.extra = {}
        self.end_headers()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
