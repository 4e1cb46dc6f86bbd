"""What answers calls: the models of a process, for its own front or for those of other processes."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from starlette.responses import Response

from flagai.errors import ConfigError, InputError
from flagai.serve.bounds import Bounds
from flagai.serve.calls import ClientCall, EventStream, Served, choose
from flagai.serve.fields import read_body
from flagai.serve.metrics import ServerMetrics
from flagai.serve.pages import ENDPOINTS, Pages
from flagai.serve.refusals import RequestError, unprocessable
from flagai.typed_json import parse_json

_ENDPOINTS = {each.path: each for each in ENDPOINTS}


class Desk(Protocol):
    """Where a front takes its calls."""

    async def call(self, path: str, content: bytes, named: str | None, notes: dict[str, Any]) -> Any:
        """The answer to a call, or an :class:`EventStream`.

        Args:
            path: of the route.
            content: the body.
            named: the model that the address names.
            notes: takes what the log says about it.

        Raises:
            RequestError: it cannot be answered.
        """

    async def page(self, path: str) -> Response:
        """The answer to a path without a body."""

    def note(self, path: str, status: int, seconds: float, first: float | None, notes: Mapping[str, Any]) -> None:
        """Count an answer in the metrics.

        Args:
            path: of the route.
            status: of the answer.
            seconds: until its end.
            first: until the first part of a stream.
            notes: see :meth:`call`.
        """


class ModelDesk:
    """Answers with models of this process; see :class:`Desk`.

    Args:
        models: the models, by their names.
        bounds: the limits.
        metrics: the metrics.
        log_texts: whether the log has what clients send.
    """

    def __init__(
        self, models: Mapping[str, Served], bounds: Bounds, metrics: ServerMetrics, *, log_texts: bool = False
    ) -> None:
        self.models = models
        self.pages = Pages(models, bounds, metrics)
        self._bounds = bounds
        self._metrics = metrics
        self._log_texts = log_texts

    async def call(self, path: str, content: bytes, named: str | None, notes: dict[str, Any]) -> Any:
        """See :class:`Desk`."""
        endpoint = _ENDPOINTS[path]
        body = read_body(endpoint.body, parse_json(content, "The body", _NotJsonError, "Send a JSON object."))
        value = body[endpoint.texts]
        if isinstance(value, list) and len(value) > self._bounds.texts:
            raise unprocessable(
                endpoint.texts, f"it has {len(value)} entries, and this server takes {self._bounds.texts} a call."
            )
        if named is not None and body["model"] not in (None, named):
            raise unprocessable("model", f"the path names {named:.80}. Leave it out of the body.")
        served = choose(self.models, body["model"] or named, endpoint.ability, endpoint.can)
        notes |= {"model": served.model.name, "texts": len(value) if isinstance(value, list) else 1}
        notes |= {"body": body} if self._log_texts else {}
        with _refusing(endpoint.texts):
            answer = await endpoint.handler(ClientCall(body, served, self._bounds, notes))
        return EventStream(_refused(answer, endpoint.texts)) if isinstance(answer, EventStream) else answer

    async def page(self, path: str) -> Response:
        """See :class:`Desk`."""
        return self.pages.answer(path)

    def note(self, path: str, status: int, seconds: float, first: float | None, notes: Mapping[str, Any]) -> None:
        """See :class:`Desk`."""
        self._metrics.note(path, status, seconds, first, notes)


class _NotJsonError(RequestError):
    """The body is not JSON."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    """Refuse a call whose text or option does not fit the model."""
    try:
        yield
    except (InputError, ConfigError) as error:
        raise unprocessable(field, str(error)) from error


async def _refused(stream: EventStream, field: str) -> AsyncIterator[Any]:
    with _refusing(field):
        async with aclosing(stream.events) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
