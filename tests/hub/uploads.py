"""The hub of the tests with the protocols by which models are published: Git LFS and commits."""

import base64
import json
from typing import Any
from urllib.parse import urlsplit

from tests.hub.server import Fault, Handler, Sent, sha256


class UploadHandler(Handler):
    """Takes models. ``server.blobs`` are the large files that arrived; faults of a blob's size make its upload fail."""

    def do_POST(self) -> None:  # noqa: N802 - the name that the server calls
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lines = [json.loads(line) for line in raw.splitlines() if line.strip()]
        path = urlsplit(self.path).path
        self.entry = Sent("POST", path, None, body=lines, headers=dict(self.headers))
        self.server.log.append(self.entry)
        body = lines[0] if lines else {}
        if not {"secret"} & set(
            self.headers.get("Authorization", self.headers.get("Cookie", "")).replace("=", " ").split()
        ):
            return self._answer(401, b"{}")
        if path == "/api/repos/create":
            name = f"{body.get('organization') or 'me'}/{body['name']}"
            self.server.models.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs"})
            return self._json({"url": f"{self.server.url}/{name}", "id": name})
        if path in ("/api/v1/models", "/api/v1/models/"):
            name = f"{body['Path']}/{body['Name']}"
            self.server.models.setdefault(name, {".gitattributes": b""})
            return self._json({"Code": 200, "Success": True, "Data": {"Path": body["Path"], "Name": body["Name"]}})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            modes = [
                {"path": each["path"], "uploadMode": "lfs" if large(each["path"]) else "regular", "shouldIgnore": False}
                for each in body["files"]
            ]
            return self._json({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            answer = {"transfer": "basic", "objects": [self._blob(each) for each in body["objects"]]}
            return self._json({"Code": 200, "Data": answer} if "/api/v1/" in path else answer)
        if path.startswith("/api/v1/repos/models/"):
            model = path.removeprefix("/api/v1/repos/models/").partition("/commit/")[0]
            self._commit(model, [(each["path"], each.get("content"), each["sha256"]) for each in body["actions"]])
            return self._json({"Code": 200, "Success": True, "Data": {"CommitId": "c"}})
        if "/commit/" in path:
            model = path.removeprefix("/api/models/").partition("/commit/")[0]
            values = [line["value"] for line in lines if line["key"] in ("file", "lfsFile")]
            self._commit(model, [(each["path"], each.get("content"), each.get("oid", "")) for each in values])
            return self._json({"commitUrl": f"{self.server.url}/{model}/commit/c", "commitOid": "c", "success": True})
        return self._answer(404, b"no")

    def _blob(self, each: dict[str, Any]) -> dict[str, Any]:
        found = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] in blobs(self.server):
            return found
        return found | {"actions": {"upload": {"href": f"{self.server.url}/blob/{each['oid']}", "header": {}}}}

    def do_PUT(self) -> None:  # noqa: N802
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.log.append(Sent("PUT", self.path, None, count=len(content), headers=dict(self.headers)))
        self.entry = self.server.log[-1]
        fault = self.server.faults.get(str(len(content)), Fault())
        if fault.status and fault.times > 0:
            fault.times -= 1
            return self._answer(fault.status, b"busy")
        assert sha256(content) == self.path.rpartition("/")[2]
        blobs(self.server)[sha256(content)] = content
        return self._json({"Code": 200})

    def _commit(self, model: str, files: list[tuple[str, str | None, str]]) -> None:
        for name, content, digest in files:
            stored = blobs(self.server)[digest] if content is None or content == "" else base64.b64decode(content)
            self.server.models[model][name] = stored


def blobs(server: Any) -> dict[str, bytes]:
    """The large files that arrived, by their SHA-256."""
    found: dict[str, bytes] = server.__dict__.setdefault("blobs", {})
    return found


def large(name: str) -> bool:
    return name.endswith((".bin", ".safetensors"))
