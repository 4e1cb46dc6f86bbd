"""Giving up on a slow, endless or lying server in every phase of a request, in little memory."""

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flagai.catalog.card import ModelFile
from flagai.errors import HubError
from flagai.hub import Policy, ensure
from flagai.hub.errors import RefusedError, TemporaryError
from flagai.hub.request import UncatalogedModel
from flagai.hub.web import Web
from tests.hub.conftest import FILES, QUICK, contents
from tests.hub.server import Fault, Hub

# The hidden sum of all attempts stays below a few seconds.
HASTY = replace(QUICK, attempts=2, first_attempts=2, read_timeout=0.4, stall_seconds=0.3, connect_timeout=1.0)
Script = Callable[[socket.socket], None]


def drip(connection: socket.socket, text: bytes = b"x", pause: float = 0.05) -> None:
    """Send a little now and then, for ever: no two bytes are further apart than any timeout."""
    while True:
        connection.sendall(text)
        time.sleep(pause)


def flood(connection: socket.socket) -> None:
    """Send as much as the other side takes."""
    while True:
        connection.sendall(bytes(1 << 16))


def head(status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def then(begin: bytes, following: Script) -> Script:
    def script(connection: socket.socket) -> None:
        connection.sendall(begin)
        following(connection)

    return script


ENDLESS: dict[str, Script] = {
    "nothing": lambda _: time.sleep(30),
    "status line": lambda connection: drip(connection, b"H"),
    "headers": then(b"HTTP/1.1 200 OK\r\n", lambda c: drip(c, b"X: y\r\n")),
    "one header": then(b"HTTP/1.1 200 OK\r\nX: ", drip),
    "100 Continue": lambda connection: drip(connection, head("100 Continue"), 0.01),
    "body": then(head("200 OK", "Content-Length: 100000"), drip),
    "body without length": then(head(), drip),
    "chunks": then(head("200 OK", "Transfer-Encoding: chunked"), lambda c: drip(c, b"1\r\nx\r\n")),
    "size of a chunk": then(head("200 OK", "Transfer-Encoding: chunked"), lambda c: drip(c, b"0")),
    "trailers": then(head("200 OK", "Transfer-Encoding: chunked") + b"0\r\n", lambda c: drip(c, b"X: y\r\n")),
    "body of a redirect": then(head("302 Found", "Location: /again", "Content-Length: 100000"), drip),
    "body of an error": then(head("503 Busy", "Content-Length: 100000"), drip),
}


@contextmanager
def misbehaving(script: Script) -> Iterator[str]:
    """A server that reads a request and then follows a script; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            script(connection)

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """No offline mode, no proxies."""


@pytest.mark.parametrize("phase", ENDLESS)
def test_a_listing_is_given_up_in_every_phase(phase: str) -> None:
    with misbehaving(ENDLESS[phase]) as url, pytest.raises(HubError):
        Web(HASTY).json("GET", f"{url}/listing")


@pytest.mark.parametrize("source", ["baai", "hf", "modelscope", "https"])
@pytest.mark.parametrize("phase", ["headers", "100 Continue", "body", "trailers"])
def test_every_hub_is_given_up_and_the_next_one_asked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, phase: str
) -> None:
    with misbehaving(ENDLESS[phase]) as url:
        monkeypatch.setenv("FLAGAI_BAAI_URL", url)
        monkeypatch.setenv("HF_ENDPOINT", url)
        first = {"baai": "baai:m", "hf": "hf:owner/glm", "modelscope": "modelscope:owner/glm", "https": f"{url}/m/"}[
            source
        ]
        if source == "modelscope":
            monkeypatch.setenv("MODELSCOPE_DOMAIN", url)
        card = UncatalogedModel("m", (first, f"{hub.url}/plain/owner/glm/"), [ModelFile(name) for name in FILES])
        ensure(card, tmp_path / "m", policy=HASTY)
    assert contents(tmp_path / "m") == FILES


@pytest.mark.parametrize("phase", [phase for phase in ENDLESS if phase != "body of an error"])
def test_the_bytes_of_a_file_are_given_up_in_every_phase(hub: Hub, tmp_path: Path, phase: str) -> None:
    with misbehaving(ENDLESS[phase]) as url:
        hub.faults = {"vocab.txt": Fault(redirect=f"{url}/vocab.txt")}
        with pytest.raises(HubError):
            ensure("hf:owner/glm", tmp_path / "m", policy=HASTY)
    assert contents(tmp_path / "m") == {}


def test_a_ticket_is_given_up(hub: Hub, tmp_path: Path) -> None:
    with misbehaving(ENDLESS["body"]) as url:
        hub.ticket = {"url": f"{url}/file"}
        with pytest.raises(HubError):
            ensure("baai:GLM-large-ch", tmp_path / "m", policy=HASTY)


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "503 Busy", "206 Partial Content"])
def test_bodies_that_nobody_needs_take_no_memory(status: str) -> None:
    script = then(head(status, "Location: /again", f"Content-Length: {1 << 40}", "Content-Encoding: gzip"), flood)
    with misbehaving(script) as url:
        tracemalloc.start()
        with pytest.raises(HubError):
            Web(HASTY).text("GET", url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/again", "more than 10 redirects"),
        ("file:///etc/passwd", "not an http"),
        ("ftp://host/x", "not an http"),
        ("http://[bad/", "not an http"),
        ("//user:secret@[bad/", "not an http"),
    ],
)
def test_redirects_are_counted_and_lead_to_http_only(hub: Hub, place: str, message: str) -> None:
    answer = head("302 Found", f"Location: {place}", "Content-Length: 0")
    with misbehaving(lambda c: c.sendall(answer)) as url, pytest.raises(RefusedError, match=message) as caught:
        Web(HASTY).request("GET", url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("status", "asked"), [("302 Found", "GET"), ("303 See Other", "GET"), ("307 Moved", "POST")])
def test_a_redirected_ticket_is_asked_for_as_usual(hub: Hub, status: str, asked: str) -> None:
    answer = head(status, f"Location: {hub.url}/api/downloadCode", "Content-Length: 0")
    with misbehaving(lambda c: c.sendall(answer)) as url, suppress(RefusedError):
        Web(HASTY).json("POST", url, body={"model_id": "x", "checkpoint_name": "y"})
    assert hub.log[-1].method == asked


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 3_000_000, id="brackets"),
        pytest.param(b"[" + b"[]," * 1_000_000 + b"[]]", id="lists"),
        pytest.param(b"[" + b"1," * 1_000_000 + b"1]", id="numbers"),
        pytest.param(b'{"a":' * 3_000 + b"1" + b"}" * 3_000, id="depth"),
        pytest.param(b"9" * 100_000, id="digits"),
        pytest.param(b" " * 9_000_000, id="spaces"),
        pytest.param(b"<html>log in</html>", id="page"),
        pytest.param(b"", id="empty"),
    ],
)
def test_listings_that_cost_much_memory_are_refused(body: bytes) -> None:
    with misbehaving(then(head("200 OK", f"Content-Length: {len(body)}") + body, lambda _: None)) as url:
        tracemalloc.start()
        with pytest.raises(HubError, match=r"more than|not JSON"):
            Web(replace(QUICK, read_timeout=20.0)).json("GET", url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 60_000_000


def test_a_file_that_trickles_is_no_progress(hub: Hub, tmp_path: Path) -> None:
    """Much comes in the end, but too slowly: the failures are counted nevertheless."""
    policy = replace(HASTY, slowest=1 << 20)
    hub.faults = {"vocab.txt": Fault(slow=0.2)}
    hub.models["owner/glm"]["vocab.txt"] = bytes(500_000)
    with pytest.raises(HubError, match=r"too slow.*given up after 2 attempts"):
        ensure("hf:owner/glm", tmp_path / "m", wanted=("tokenizer",), policy=policy)


def test_a_file_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    policy = replace(HASTY, largest_side_file=300_000, largest_unsized=400_000)
    for name in ("vocab.txt", "pytorch_model.bin"):
        with misbehaving(then(head(), flood)) as url, pytest.raises(HubError, match="too large for such a file"):
            ensure(f"{url}/{name}", tmp_path / name, wanted=(name,), policy=policy)
        assert sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("value", ["9" * 5_000, "-1", "1e3", "\u0663", "x"])
def test_odd_numbers_in_headers(hub: Hub, tmp_path: Path, value: str) -> None:
    odd = value.encode().decode("latin-1")
    begin = f"HTTP/1.1 200 OK\r\nContent-Length: {odd}\r\n\r\n".encode("latin-1")
    busy = f"HTTP/1.1 503 Busy\r\nRetry-After: {odd}\r\n\r\n".encode("latin-1")
    with misbehaving(lambda c: c.sendall(begin + b"[PAD]")) as url, suppress(HubError):
        ensure(f"{url}/vocab.txt", tmp_path / "m", wanted=("vocab.txt",), policy=HASTY)
    with misbehaving(lambda c: c.sendall(busy)) as url, pytest.raises(HubError):
        Web(HASTY).text("GET", url)


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin", "vocab.txt"])
@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", None),
        (b"\xef\xbb\xbf\r\n <HTML>log in", None),
        (b"<!-- portal --><p>log in", None),
        (b"\n" * 600 + b"<div>log in</div>", "text/plain"),
        ("\ufeff<html>log in</html>".encode("utf-16-le"), "application/octet-stream"),
        (b"<Error><Code>AccessDenied</Code></Error>", None),
        (b"log in", "text/html; charset=utf-8"),
        (b'{"error": "log in"}', "application/json"),
        (b"", None),
    ],
)
def test_a_page_to_log_in_is_not_taken_for_a_file(
    hub: Hub, tmp_path: Path, name: str, page: bytes, kind: str | None
) -> None:
    if kind == "application/json" and name == "config.json":
        kind = "text/html"  # a configuration is JSON itself
    headers = [f"Content-Length: {len(page)}", *([f"Content-Type: {kind}"] if kind else [])]
    answer = head("200 OK", *headers) + page
    with misbehaving(lambda c: c.sendall(answer)) as url, pytest.raises(HubError, match=r"web page|is empty"):
        ensure(f"{url}/{name}", tmp_path / "m", wanted=(name,), policy=HASTY)
    assert contents(tmp_path / "m") == {}


def test_silence_ends_at_the_shorter_limit() -> None:
    """A body has a minute in all, but no pause in it may be longer than the timeout."""
    web, begin = Web(Policy(read_timeout=0.3, attempts=1, first_attempts=1)), time.monotonic()
    silence = then(head("200 OK", "Content-Length: 9"), ENDLESS["nothing"])
    with misbehaving(ENDLESS["nothing"]) as url, pytest.raises(HubError, match=r"no complete answer within 0\.3 s"):
        web.text("GET", url)
    with misbehaving(silence) as url, pytest.raises(TemporaryError, match="too long"):
        list(web.received(web.request("GET", url), 10, lambda: 60.0))
    assert time.monotonic() - begin < 15


def test_a_proxy_s_tunnel_has_a_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with misbehaving(ENDLESS["headers"]) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(HubError, match="given up"):
            Web(HASTY).text("GET", "https://host.invalid/x")
