"""What cannot be answered is refused, with a status and the field; the server goes on."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flagai.errors import ConfigError, InputError
from flagai.serve.served import ServedModel
from flagai.serve.server import ServerSettings, run_server
from tests.serve.conftest import MODELS
from tests.serve.processes import PATIENCE, ServerProcess, serving

POEM = {"text": "春江花月夜"}
MINILM = {"model": "all-MiniLM-L6-v2"}
WRITES = {"model": "GLM-mini-ch", "prompt": "春", "max_tokens": 2}
# path, body, status, field, words
REFUSED: list[tuple[str, Any, int, str | None, str]] = [
    ("/v1/poem", {"text": "春", "sead": 1}, 422, "sead", "Did you mean 'seed'"),
    ("/v1/poem", {}, 422, "text", "required"),
    ("/v1/poem", [], 422, None, "expected an object"),
    ("/v1/poem", {"text": 3}, 422, "text", "not a text"),
    ("/v1/poem", {"text": []}, 422, "text", "at least one"),
    ("/v1/poem", {"text": "长" * 21}, 422, "text", "not a title for a poem"),
    ("/v1/poem", POEM | {"seed": True}, 422, "seed", "not an integer"),
    ("/v1/poem", POEM | {"top_p": 2}, 422, "top_p", "from 0 to 1"),
    ("/v1/poem", POEM | {"num_beams": 4, "top_k": 2}, 422, "top_k", "no effect with do_sample=false"),
    ("/v1/poem", POEM | {"length_penalty": 1}, 422, "length_penalty", "no effect with do_sample=true"),
    ("/v1/poem", POEM | {"form": "三言"}, 422, "form", "五言绝句"),
    ("/v1/poem", {"text": ["春", "秋"], "stream": True}, 422, "stream", "one text"),
    ("/v1/poem", POEM | {"num_return_sequences": 17}, 422, "num_return_sequences", "more than this server allows"),
    ("/v1/poem", POEM | {"model": "GPT2-base-ch"}, 404, "model", "there is no 'GPT2-base-ch' here"),
    ("/v1/poem", POEM | {"model": "BERT-masks"}, 422, "model", "cannot write poems"),
    ("/v1/title", {"text": "长" * 500}, 422, "text", "do not fit"),
    ("/v1/fill", {"text": "春[MASK]"}, 422, "model", "several models can fill blanks"),
    ("/v1/fill", {"model": "GLM-mini-ch", "text": "春"}, 422, "text", "has no blank"),
    ("/v1/fill", {"model": "BERT-masks", "text": "[MASK]", "num_beams": 2}, 422, "num_beams", "no effect with a BERT"),
    ("/v1/ner", {"text": ["春"] * 65}, 422, "text", "takes 64 a call"),
    ("/v1/match", {"model": "all-MiniLM-L6-v2", "pairs": [["a"]]}, 422, "pairs", "pairs of texts"),
    ("/v1/classify", {"model": "GLM-mini-ch", "text": "春"}, 422, "labels", "name at least two"),
    ("/v1/classify", {"model": "BERT-classes", "text": "春", "labels": ["x"]}, 422, "text", "2 classes"),
    ("/v1/completions", WRITES | {"n": 2, "temperature": 0}, 422, "n", "all the same"),
    ("/v1/completions", WRITES | {"max_tokens": 301}, 422, "max_tokens", "more than this server allows"),
    ("/v1/completions", WRITES | {"prompt": "长" * 400}, 422, "prompt", "402 tokens"),
    ("/v1/completions", WRITES | {"echo": True}, 422, "echo", "not supported"),
    ("/v1/completions", WRITES | {"presence_penalty": 0.5}, 422, "presence_penalty", "not supported"),
    ("/v1/completions", WRITES | {"tools": []}, 422, "tools", "no such field"),
    ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "word " * 300}, 422, "input", "the model reads 256"),
    (
        "/v1/embeddings",
        MINILM | {"input": "a", "dimensions": 8},
        422,
        "dimensions",
        "not supported",
    ),
    ("/embed", {"model": "all-MiniLM-L6-v2", "inputs": ["今天天气很好"] * 2}, 422, "inputs", "does not know"),
    ("/predict", {"inputs": ["a", "b", "c"]}, 422, "inputs", "a pair"),
]


@pytest.mark.parametrize(("path", "body", "status", "field", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named(
    server: ServerProcess, path: str, body: Any, status: int, field: str | None, words: str
) -> None:
    answer = server.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == field
    assert words in error["message"]
    assert error["code"] == status


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b'{"text": "\xff"}', {}, 400, "not valid JSON"),
        (b'{"text": "\\ud800"}', {}, 400, "not valid JSON"),
        (b'{"text": 1e999}', {}, 400, "larger than any number"),
        (b"{" * 5000, {}, 400, "not valid JSON"),
        (b'{"text": "a", "text": "b"}', {}, 400, "occurs twice"),
        (b"", {}, 400, "not valid JSON"),
        (b"{}", {"content-type": "text/plain"}, 415, "application/json"),
        (b"{}", {"host": "example.org"}, 400, "host"),
        (b" " * (64 * 1024 + 1), {}, 413, "larger than the 65,536 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_request_is_refused(
    server: ServerProcess, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = server.client.post("/v1/poem", content=content, headers={"content-type": "application/json"} | headers)
    assert answer.status_code == status
    assert words in answer.text


def test_a_large_body_is_refused_before_it_has_arrived(server: ServerProcess) -> None:
    """10 MB, declared or in chunks, of which the server reads no more than its limit."""
    for head in (b"Content-Length: 10000000", b"Transfer-Encoding: chunked"):
        with socket.create_connection(server.place, PATIENCE) as connection:
            connection.sendall(b"POST /v1/poem HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            connection.sendall(head + b"\r\n\r\n")
            part = b"" if b"Length" in head else b"%x\r\n%s\r\n" % (70000, b" " * 70000)
            connection.sendall(part)
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_hundred_thousand_texts_are_refused(server: ServerProcess) -> None:
    answer = server.client.post("/v1/ner", content=json.dumps({"text": ["a"] * 100_000}), headers=JSON)
    assert answer.status_code == 413


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("sent", [b"", b"POST /v1/poem HT", b"POST /v1/poem HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_client_that_sends_no_whole_head_is_left_after_a_while(server: ServerProcess, sent: bytes) -> None:
    with socket.create_connection(server.place, PATIENCE) as connection:
        connection.sendall(sent)
        begin = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
        assert time.monotonic() - begin > 1, "not at once"


def test_a_client_that_sends_half_a_body_is_told(server: ServerProcess) -> None:
    with socket.create_connection(server.place, PATIENCE) as connection:
        connection.sendall(b"POST /v1/poem HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        connection.sendall(b'Content-Length: 100\r\n\r\n{"text')
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_unknown_paths_and_methods_are_refused(server: ServerProcess) -> None:
    assert "/v1/poem" in server.client.get("/v1/poems").json()["error"]["message"]
    assert server.client.get("/v1/poem").status_code == 405
    assert server.client.post("/health").status_code == 405


def test_a_model_that_cannot_be_loaded_stops_the_start_with_one_message(home: Path) -> None:
    with pytest.raises(RuntimeError, match="GLM-huge-ch") as caught, serving(home, MODELS[0], "GLM-huge-ch"):
        pass
    assert str(caught.value).count("error: ") == 1
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("argument", ["GLM-mini-ch:ner", "BERT-masks:lm", "GLM-mini-ch:poetry,embedding,ner-gp"])
def test_a_model_that_cannot_do_a_task_is_refused(home: Path, argument: str) -> None:
    with pytest.raises(InputError, match="cannot do"):
        ServedModel(argument, home, device="cpu")


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no key"):
        run_server(["GLM-mini-ch"], ServerSettings(host="0.0.0.0"), print)
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ConfigError, match="has no key"):
        run_server(["GLM-mini-ch"], ServerSettings(key_file=tmp_path / "keys"), print)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot be taken"):
        run_server(["GLM-mini-ch"], ServerSettings(port=taken.getsockname()[1]), print)
