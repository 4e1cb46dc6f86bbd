"""The field ``model`` names an adapter: requests of many clients in one batch have the answers of their own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import flagai
from tests.adapters.made import with_adapters
from tests.serve.processes import ServerProcess, serving

NAMES = ("law", "news", "GLM-mini-ch")
TASKS = "GLM-mini-ch:poetry,embedding"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    model = with_adapters(flagai.load("lm", "GLM-mini-ch", device="cpu").model, "law", "news", std=0.06)
    for name in NAMES[:2]:
        model.save_adapter(home / name, name, base="GLM-mini-ch")
    return {name: home / name for name in NAMES[:2]}


@pytest.fixture(scope="module")
def server(adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = [text for name, folder in adapters.items() for text in ("--adapter", f"{name}={folder}")]
    with serving(tmp_path_factory.mktemp("home"), TASKS, *options) as running:
        yield running


@pytest.fixture(scope="module")
def pipelines(adapters: dict[str, Path]) -> dict[str, Any]:
    return {task: flagai.load(task, "GLM-mini-ch", adapter=adapters, device="cpu") for task in ("poetry", "embedding")}


def test_adapters_are_listed_as_models(server: ServerProcess) -> None:
    models = {each["id"]: each for each in server.client.get("/v1/models").json()["data"]}
    assert {name: each["parent"] for name, each in models.items()} == {
        "GLM-mini-ch": None,
        "law": "GLM-mini-ch",
        "news": "GLM-mini-ch",
    }
    assert "/v1/poem" in models["law"]["paths"]
    refused = server.post("/v1/poem", text="秋思", model="sport")
    assert refused.status_code == 404
    assert "only GLM-mini-ch, law, news" in refused.text


def test_clients_of_different_adapters_share_a_batch(server: ServerProcess, pipelines: dict[str, Any]) -> None:
    poet = pipelines["poetry"]
    wanted = {name: poet("秋思", seed=3, adapter="base" if name == NAMES[2] else name) for name in NAMES}
    assert len(set(wanted.values())) == 3

    def ask(name: str) -> str:
        body = {"model": name, "text": "秋思", "seed": 3}
        found = httpx.post(f"{server.address}/v1/poem", json=body, timeout=120, trust_env=False).json()
        assert found["model"] == name
        return str(found["results"][0]["answers"][0]["text"])

    with ThreadPoolExecutor(6) as clients:
        assert list(clients.map(ask, NAMES * 4)) == [wanted[name] for name in NAMES * 4]
    assert server.answer("/v1/poem", text="秋思", seed=3)["model"] == "GLM-mini-ch"  # the only model
    events = server.events("/v1/poem", model="law", text="秋思", seed=3)
    assert events[-1]["answer"]["text"] == wanted["law"]


def test_vectors_are_those_of_the_adapter(server: ServerProcess, pipelines: dict[str, Any]) -> None:
    for name in NAMES:
        found = server.answer("/v1/embeddings", model=name, input=["春眠不觉晓", "秋思"])
        wanted = pipelines["embedding"](
            ["春眠不觉晓", "秋思"], normalize=True, adapter="base" if name == NAMES[2] else name
        )
        for entry, vector in zip(found["data"], wanted.tolist(), strict=True):
            assert entry["embedding"] == pytest.approx(vector, abs=1e-5)
