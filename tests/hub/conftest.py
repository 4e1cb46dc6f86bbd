import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagai.hub import Policy
from tests.hub.server import Hub, serving

WEIGHTS = random.Random(7).randbytes(1_280_000)
CONFIG = b'{"hidden_size": 16}'
VOCABULARY = b"[PAD]\n[UNK]\n" * 500
FILES = {"config.json": CONFIG, "pytorch_model.bin": WEIGHTS, "vocab.txt": VOCABULARY}
QUICK = Policy(
    attempts=4,
    backoff=0.01,
    longest_backoff=0.05,
    longest_retry_after=2.0,
    connect_timeout=2.0,
    read_timeout=1.0,
    stall_seconds=0.5,
    fast=1 << 60,
    ramp=0.001,
    segment=200_000,
    large=600_000,
    heartbeat=0.1,
    stale=1.5,
    patience=10.0,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server, and an environment in which all hubs are this server."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("FLAGAI_", "HF_", "MODELSCOPE_")):
            monkeypatch.delenv(name)
    with serving() as server:
        server.models = {"GLM-large-ch": dict(FILES), "owner/glm": dict(FILES)}
        monkeypatch.setenv("FLAGAI_BAAI_URL", server.url)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf-cache"))
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.url)
        monkeypatch.setenv("FLAGAI_HOME", str(tmp_path / "home"))
        yield server


def contents(folder: Path) -> dict[str, bytes]:
    """What is visible in a model's folder: everything but flagai's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(".flagai")
    }


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
