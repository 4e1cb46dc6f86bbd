"""Fronts in processes of their own answer as the process of the models does, and end with it."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import flagai
from tests.serve.processes import PATIENCE, ServerProcess, serving
from tests.serve.test_faults import LONG, http_request, stop_under_load, wait_until

TWO = ("--http-processes", "2")


@pytest.fixture(scope="module")
def two(home: Path) -> Iterator[ServerProcess]:
    with serving(home, "GLM-mini-ch", *TWO, FLAGAI_API_KEY="second") as running:
        running.client.headers["authorization"] = "Bearer second"
        yield running


def fronts(server: ServerProcess) -> list[int]:
    """The processes that hold the server's port."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def test_all_kinds_of_answers_come_through(two: ServerProcess) -> None:
    wanted = flagai.load("poetry")("春江花月夜", seed=1)
    assert two.answer("/v1/poem", text="春江花月夜", seed=1)["results"][0]["answers"][0]["text"] == wanted
    events = two.events("/v1/poem", text="春江花月夜", seed=1)
    assert len(events) > 2
    assert "".join(event["text"] for event in events) == wanted == events[-1]["answer"]["text"]
    for body, field in (({"text": 1}, "text"), ({"text": "春", "stream": True, "num_beams": 99}, "num_beams")):
        refused = two.post("/v1/poem", **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, field)
    assert two.client.post("/v1/poem", json={"text": "春"}, headers={"authorization": "Bearer x"}).status_code == 401
    assert two.client.post("/v1/poem", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert two.client.get("/nothing").status_code == 404
    for path in ("/", "/health", "/v1/models", "/info", "/openapi.json"):
        assert two.client.get(path).status_code == 200, path
    wait_until(lambda: two.metric("flagai_requests_total", 'status="422"') == 2)
    assert two.metric("flagai_first_part_seconds_count") == 1
    assert two.metric("flagai_tokens_total", 'kind="completion"') > 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_work_of_clients_that_vanish_is_canceled(two: ServerProcess, stream: bool) -> None:
    connections = [socket.create_connection(two.place, PATIENCE) for _ in range(8)]
    for connection in connections:
        content = http_request("/v1/completions", LONG | {"stream": stream})
        connection.sendall(content.replace(b"Host:", b"Authorization: Bearer second\r\nHost:", 1))
    wait_until(lambda: two.metric("flagai_running_requests") == 8)
    for connection in connections:
        connection.close()
    wait_until(lambda: two.metric("flagai_pending_texts") == 0)


def test_no_answer_is_cut_off_by_sigterm(two: ServerProcess) -> None:
    stop_under_load(two, answers=8)


@pytest.mark.slow
@pytest.mark.parametrize("answers", range(0, 40, 4))
def test_no_answer_is_cut_off_at_any_moment(home: Path, answers: int) -> None:
    with serving(home, "GLM-mini-ch", *TWO, FLAGAI_API_KEY="second") as running:
        stop_under_load(running, answers)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["front", "models"])
def test_one_that_is_killed_ends_the_others(home: Path, which: str) -> None:
    with serving(home, "GLM-mini-ch", *TWO) as running:
        own = fronts(running)
        assert len(own) == 2
        os.kill(own[0] if which == "front" else running.process.pid, signal.SIGKILL)
        assert running.ended() != 0
        wait_until(lambda: not any(Path(f"/proc/{each}").exists() for each in own))
