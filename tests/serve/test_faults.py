"""Clients that vanish, do not read, come without a key or too many at once, and a server that is stopped under load."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.processes import PATIENCE, ServerProcess, serving

LONG = {"model": "GLM-mini-ch", "prompt": "春眠不觉晓，", "max_tokens": 300, "min_tokens": 290, "seed": 1}

SHORTER = {"n": 4, "max_tokens": 100, "min_tokens": 90}


def wait_until(check: Callable[[], bool]) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def http_request(path: str, body: Any) -> bytes:
    """A request as bytes."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_work_of_clients_that_vanish_is_canceled(server: ServerProcess, stream: bool) -> None:
    before = server.metric("flagai_requests_total", 'status="499"')
    connections = []
    for _ in range(8):
        connection = socket.create_connection(server.place, PATIENCE)
        connection.sendall(http_request("/v1/completions", LONG | {"stream": stream}))
        connections.append(connection)
    wait_until(lambda: server.metric("flagai_running_requests") == 8)
    assert server.metric("flagai_cache_used_bytes") > 0
    for connection in connections:
        connection.close()
    wait_until(lambda: server.metric("flagai_requests_total", 'status="499"') == before + 8)
    wait_until(lambda: server.metric("flagai_running_requests") == 0)
    assert server.metric("flagai_pending_texts") == 0
    wait_until(lambda: server.metric("flagai_cache_used_bytes") < server.metric("flagai_cache_limit_bytes") / 100)
    assert server.answer("/v1/poem", text="春江花月夜", seed=1)["results"]


def test_a_client_that_does_not_read_is_left_after_a_while(server: ServerProcess) -> None:
    """Its answers are more than the buffers of both sides hold."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(server.place)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400
        with pytest.raises(OSError, match=r"reset|pipe"):
            send_for_ever(connection, asked)
    assert server.client.get("/health").status_code == 200


def send_for_ever(connection: socket.socket, content: bytes) -> None:
    while True:
        connection.sendall(content)


def test_many_clients_get_what_one_gets(server: ServerProcess) -> None:
    """Mixed requests at once; each answer is the one that it has alone."""
    texts = ["春江花月夜", "秋思", "明月", "江雪"]
    asked: list[tuple[str, dict[str, Any]]] = []
    for number in range(12):
        text = texts[number % 4]
        asked += [
            ("/v1/poem", {"text": text, "seed": number % 3, "max_new_tokens": 12}),
            ("/v1/title", {"text": f"第一条 {text}", "max_new_tokens": 6}),
            ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": f"a text {number % 7}"}),
            ("/v1/ner", {"text": text * (number % 5 + 1)}),
        ]
    once = {json.dumps(each): each for each in asked}
    alone = {key: values(server.answer(path, **body)) for key, (path, body) in once.items()}

    async def all_of_them() -> list[Any]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=server.address, timeout=PATIENCE, limits=limits, trust_env=False
        ) as client:
            answers = await asyncio.gather(*(client.post(path, json=body) for path, body in asked))
        return [values(answer.json()) for answer in answers]

    for each, found in zip(asked, asyncio.run(all_of_them()), strict=True):
        assert found == pytest.approx(alone[json.dumps(each)], abs=1e-4), each


def values(answer: Any) -> dict[str, Any]:
    """The texts and numbers of an answer by their places, without what is new in each."""
    found: dict[str, Any] = {}

    def visit(place: str, value: Any) -> None:
        if isinstance(value, dict | list):
            for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
                visit(f"{place}/{key}", entry)
        elif not place.endswith(("/id", "/created")):
            found[place] = value

    visit("", answer)
    return found


@pytest.fixture(scope="module")
def small(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with keys and a short queue."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# of the tests\nfirst key\nsecond\n")
    arguments = ("GLM-mini-ch", "--max-queue", "8", "--api-key-file", str(file), "--log-texts")
    with serving(home, *arguments, FLAGAI_API_KEY="third") as running:
        yield running


def test_a_key_is_needed_where_there_are_keys(small: ServerProcess) -> None:
    for key in (None, "fourth", "first", "sECOND", "third\xff"):
        headers = {} if key is None else {"authorization": f"Bearer {key}".encode("latin-1")}
        for method, path in (("POST", "/v1/poem"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/info")):
            answer = small.client.request(method, path, headers=headers, json={"text": "春"})
            assert answer.status_code == 401, (key, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/health", "/openapi.json"):
        assert small.client.get(path).status_code == 200
    for key in ("first key", "second", "third"):
        assert small.client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert not [line for line in small.lines if "first key" in line or "fourth" in line]


def test_a_full_queue_is_told(small: ServerProcess) -> None:
    headers = {"authorization": "Bearer second"}
    many = small.client.post("/v1/poem", json={"text": ["春"] * 9, "max_new_tokens": 2}, headers=headers)
    assert many.status_code == 200, "one call may be larger than the queue"
    found: list[httpx.Response] = []

    def ask() -> None:
        found.append(
            httpx.post(f"{small.address}/v1/completions", json=LONG | SHORTER, headers=headers, timeout=PATIENCE)
        )

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in found) == [200, 200, 429, 429, 429, 429]
    for answer in found:
        assert (answer.status_code == 429) == ("retry-after" in answer.headers)


def test_no_answer_is_cut_off_by_sigterm(small: ServerProcess) -> None:
    """What has begun ends as it should; what has not is not answered at all."""
    stop_under_load(small, answers=8)
    assert [entry for entry in small.log if "body" in entry], "texts are logged where one says so"


@pytest.mark.slow
@pytest.mark.parametrize("answers", range(0, 40, 2))
def test_no_answer_is_cut_off_at_any_moment(home: Path, answers: int) -> None:
    with serving(home, "GLM-mini-ch", FLAGAI_API_KEY="second") as running:
        stop_under_load(running, answers)


def stop_under_load(server: ServerProcess, answers: int) -> None:
    """Stop a server after so many answers, while clients ask for more."""
    headers = {"authorization": "Bearer second"}
    found: list[str] = []

    def ask(stream: bool) -> None:
        try:
            with httpx.Client(timeout=PATIENCE, headers=headers, trust_env=False) as client:
                while True:
                    text = client.post(f"{server.address}/v1/poem", json={"text": "春", "stream": stream}).text
                    whole = '"answer"' in text.splitlines()[-2] if stream else bool(json.loads(text))
                    found.append("whole" if whole else text)
        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
            found.append("refused" if "incomplete" not in str(error) else str(error))

    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: found.count("whole") >= answers)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert server.ended() == 0
    assert set(found) <= {"whole", "refused"}
    assert found.count("refused") == len(threads)
    assert not [entry for entry in server.log if entry["level"] == "error"]
