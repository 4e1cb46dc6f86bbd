"""Time to fetch one file from a local server: flagai, curl and huggingface_hub, verified and not.

    python benchmarks/fetch.py [--megabytes 1024] [--folder /dev/shm] [--repeat 3]

The server runs in a process of its own and sends with sendfile. flagai computes the sha256 while the bytes come in;
curl does not, so `curl + sha256sum` is shown as well. The contenders take turns.
"""

import argparse
import hashlib
import http.server
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

COMMIT = "0" * 40
NAME = "model.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    """One file, as the Hugging Face hub serves it."""

    protocol_version = "HTTP/1.1"
    file: Path
    sha256: str

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        size = self.file.stat().st_size
        if self.path.startswith("/api/models/"):
            large = {"sha256": self.sha256, "size": size, "pointerSize": 130}
            entry = {"rfilename": NAME, "size": size, "lfs": large}
            body = json.dumps({"id": "o/m", "sha": COMMIT, "siblings": [entry]}).encode()
            self.answer(200, len(body), {})
            self.wfile.write(body)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
        extra = {"ETag": f'"{self.sha256}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked:
            extra["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        self.answer(206 if asked else 200, end - begin, extra)
        if self.command == "GET":
            with self.file.open("rb") as source:
                while begin < end:
                    begin += os.sendfile(self.connection.fileno(), source.fileno(), begin, end - begin)

    def answer(self, status: int, length: int, extra: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**extra, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


def serve(file: Path, sha256: str, pipe: Connection) -> None:
    Handler.file, Handler.sha256 = file, sha256
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where to fetch to")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as origin, tempfile.TemporaryDirectory(dir=options.folder) as goal:
        file, digest = Path(origin) / "file", hashlib.sha256()
        with file.open("wb") as target:
            for _ in range(options.megabytes // 16):
                target.write(piece := os.urandom(1 << 24))
                digest.update(piece)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(file, digest.hexdigest(), theirs), daemon=True)
        server.start()
        try:
            compare(f"http://127.0.0.1:{ours.recv()}", Path(goal), options.repeat, file.stat().st_size)
        finally:
            server.terminate()


def compare(url: str, goal: Path, repeat: int, size: int) -> None:
    os.environ.update({"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    os.environ["HF_HUB_CACHE"] = str(goal / "cache")
    link = f"{url}/o/m/resolve/main/{NAME}"

    def curl() -> None:
        subprocess.run(["curl", "-sS", "-o", goal / "curl", link], check=True)

    def curl_and_hash() -> None:
        curl()
        subprocess.run(["sha256sum", goal / "curl"], check=True, stdout=subprocess.DEVNULL)

    def ours() -> None:
        from flagai.hub import ensure

        ensure("hf:o/m", goal / "ours")

    def hub() -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download("o/m", NAME, cache_dir=goal / "hub")

    contenders: dict[str, Callable[[], None]] = {
        "curl, not verified": curl,
        "curl + sha256sum": curl_and_hash,
        "flagai, verified": ours,
        "huggingface_hub, not verified": hub,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeat + 1):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            contender()
            if turn:  # the first turn imports and warms up
                times[name].append(time.perf_counter() - begin)
            for entry in goal.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    reference = statistics.median(times["curl, not verified"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"{name:30} {size / median / 1e6:6.0f} MB/s  {reference / median:5.2f} of curl"
            f"  ({', '.join(f'{second:.2f}' for second in seconds)} s)"
        )


if __name__ == "__main__":
    main()
