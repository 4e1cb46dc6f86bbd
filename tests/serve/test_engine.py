"""Packs, budgets and failures of engines, in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from flagai.errors import InputError
from flagai.serve.application import application
from flagai.serve.bounds import Bounds
from flagai.serve.calls import Served
from flagai.serve.desk import ModelDesk
from flagai.serve.engine import Engine
from flagai.serve.front import Front
from flagai.serve.keys import ApiKeys
from flagai.serve.lockstep import Lockstep
from flagai.serve.metrics import ServerMetrics
from flagai.serve.packs import PackQueue
from flagai.serve.served import ServedModel
from flagai.serve.server import memory_shares
from flagai.serve.work import Ticket, WorkSpec


def ticket(task: str, *tokens: int, **options: Any) -> Ticket:
    return Ticket(WorkSpec(task, tuple(f"{task} {size}" for size in tokens), options), tokens=tokens)


def indices(pack: list[tuple[Ticket, int]]) -> list[tuple[int, int]]:
    return [(own.tokens[index], index) for own, index in pack]


def test_a_pack_waits_for_its_deadline_or_its_budget() -> None:
    queue = PackQueue(tokens=100, seconds=1)
    assert queue.seconds_left(0) is None
    queue.add(ticket("embed", 10, 20), now=0)
    queue.add(ticket("embed", 30), now=0.5)
    assert queue.seconds_left(0.5) == 0.5
    assert queue.take(0.9) == []
    assert indices(queue.take(1)) == [(10, 0), (20, 1), (30, 0)]
    queue.add(ticket("embed", 60, 50, 40), now=2)
    assert queue.seconds_left(2) == 0, "the budget is full"
    assert indices(queue.take(2)) == [(60, 0)]
    assert indices(queue.take(3)) == [(50, 1), (40, 2)]
    assert len(queue) == 0


def test_a_pack_waits_longer_while_calls_are_slow() -> None:
    queue = PackQueue(tokens=100, seconds=1)
    for seconds, wait in ((8, 4), (0.1, 1)):
        queue.took(seconds)
        queue.add(ticket("embed", 10), now=0)
        assert queue.seconds_left(0) == wait
        assert len(queue.take(wait)) == 1


def test_a_pack_is_of_one_kind_and_without_canceled_work() -> None:
    queue = PackQueue(tokens=100, seconds=0)
    first, second, third = ticket("embed", 1), ticket("embed", 2, normalize=True), ticket("embed", 3)
    for each in (first, second, third):
        queue.add(each, now=0)
    first.canceled = True
    assert indices(queue.take(0)) == [(3, 0)]
    assert indices(queue.take(0)) == [(2, 0)]
    queue.add(ticket("embed", 500), now=1)
    assert indices(queue.take(1)) == [(500, 0)], "a text that is longer than the budget goes alone"


def test_models_share_the_memory_by_the_size_of_a_token() -> None:
    assert memory_shares({"a": 100, "b": 300}, 4000) == {"a": 1000, "b": 3000}
    assert memory_shares({"a": 100}, None) == {"a": None}


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel("GLM-mini-ch", None, device="cpu")


@contextmanager
def answering(model: Any, memory: int = 2**26, **bounds: Any) -> Iterator[Any]:
    """A function that sends requests to an application in this process."""
    metrics = ServerMetrics()
    engine = Engine(model, Bounds(**bounds), memory, metrics.watch("GLM-mini-ch"), Lockstep())
    desk = ModelDesk({"GLM-mini-ch": Served(model, engine)}, Bounds(**bounds), metrics)
    app = application(Front(desk, Bounds(**bounds), ApiKeys([])))

    async def ask(*asked: tuple[str, str, Any]) -> list[httpx.Response]:
        engine.start(asyncio.get_running_loop())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = [await client.request(method, path, json=body) for method, path, body in asked]
        await asyncio.to_thread(engine.stop)
        return found

    yield lambda *asked: asyncio.run(ask(*asked))


POEM = ("POST", "/v1/poem", {"text": "春", "max_new_tokens": 60})
HEALTH = ("GET", "/health", None)


def test_an_answer_that_takes_too_long_is_canceled(model: ServedModel) -> None:
    with answering(model, seconds=0.001) as ask:
        late, health = ask(POEM, HEALTH)
    assert late.status_code == 503
    assert late.headers["retry-after"] == "1"
    assert health.status_code == 200


class Broken:
    """A model whose work fails."""

    def __init__(self, model: ServedModel, *, error: BaseException) -> None:
        self._model = model
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def call(self, *_: Any) -> list[Any]:
        raise self._error

    def build(self, spec: WorkSpec) -> list[Any]:
        asked = self._model.build(spec)
        for each in asked:
            each.request.logits_processors = [self._fail]
        return asked

    def _fail(self, *_: Any) -> Any:
        raise self._error


CLASSES = ("POST", "/v1/classify", {"text": "春", "labels": ["春", "秋"]})


def test_an_error_of_the_model_fails_its_requests_only(model: ServedModel) -> None:
    with answering(Broken(model, error=RuntimeError("secret"))) as ask:
        answers = ask(POEM, CLASSES, POEM, HEALTH)
    assert [answer.status_code for answer in answers] == [500, 500, 500, 200]
    assert not [answer for answer in answers if "secret" in answer.text]


def test_an_error_that_would_come_again_ends_its_requests(model: ServedModel) -> None:
    """As of a model that gives NaN: the scheduler lets all requests begin anew."""
    with answering(Broken(model, error=InputError("NaN"))) as ask:
        answers = ask(POEM, HEALTH)
    assert [answer.status_code for answer in answers] == [422, 200]


def test_a_request_that_no_memory_holds_is_refused(model: ServedModel) -> None:
    with answering(model, memory=2**21) as ask:
        short, wide = POEM[2] | {"max_new_tokens": 4}, POEM[2] | {"num_beams": 16}
        large, small = ask(("POST", "/v1/poem", wide), ("POST", "/v1/poem", short))
    assert large.status_code == 422
    assert "memory" in large.json()["error"]["message"]
    assert small.status_code == 200


def test_what_ends_an_engine_is_told(model: ServedModel) -> None:
    with answering(Broken(model, error=SystemExit("gone"))) as ask:
        answers = ask(CLASSES, POEM, HEALTH)
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert [("retry-after" in answer.headers) for answer in answers] == [True, True, False]
    assert answers[2].json() == {"status": "failed", "failed": ["GLM-mini-ch"]}
