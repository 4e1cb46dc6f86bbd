"""The routes of a server."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flagai import __version__
from flagai.serve import chat_calls, hub_calls, openai_calls, task_calls, tei_calls
from flagai.serve.calls import Endpoint
from flagai.serve.fields import Schema
from flagai.serve.front import Front
from flagai.serve.openai_calls import INTEGER, TEXT, listed, record
from flagai.serve.openapi import document
from flagai.serve.refusals import RequestError

ENDPOINTS: tuple[Endpoint, ...] = (
    *openai_calls.ENDPOINTS,
    *chat_calls.ENDPOINTS,
    *task_calls.ENDPOINTS,
    *tei_calls.ENDPOINTS,
    *hub_calls.ENDPOINTS,
)
_MODEL = record(id=TEXT, object=TEXT, created=INTEGER, owned_by=TEXT, tasks=listed(TEXT), paths=listed(TEXT))
# Routes without a body, what they answer, and whether they need a key.
PLAIN: Mapping[str, tuple[str, Schema]] = {
    "/": ("The page", {}),
    "/health": ("Whether all models work", {}),
    "/v1/models": ("The models, their tasks and paths", record(object=TEXT, data=listed(_MODEL))),
    "/info": ("The models and limits (TEI)", record(model_id=TEXT, version=TEXT)),
    "/metrics": ("Metrics for Prometheus", {}),
    "/openapi.json": ("This document", {}),
}
_OPEN = ("/", "/health", "/openapi.json")


_POLICY = (
    "default-src 'none'; script-src {script}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """What is answered without a model.

    Args:
        front: what all calls share.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._document = document(ENDPOINTS, PLAIN)
        self._page = (files("flagai.serve") / "page.html").read_text(encoding="utf-8")
        self._page_headers = {
            "content-security-policy": _POLICY.format(script=_hash(self._page)),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }

    def routes(self) -> list[Route]:
        """The routes."""
        handlers = {
            "/": self.page,
            "/health": self.health,
            "/v1/models": self.models,
            "/info": self.info,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
        }
        return [Route(path, self._guarded(path, handlers[path]), methods=["GET"]) for path in PLAIN]

    def _guarded(self, path: str, handler: Any) -> Any:
        async def answer(request: HttpRequest) -> Response:
            if path not in _OPEN:
                self._front.keys.check(request.headers.get("authorization", "").encode("latin-1"))
            found: Response = handler()
            return found

        return answer

    def page(self) -> Response:
        """The page."""
        return HTMLResponse(self._page, headers=self._page_headers)

    def health(self) -> Response:
        """200 if every model works, 503 if one has failed or the server stops."""
        failed = {
            name: str(each.engine.failure)
            for name, each in self._front.models.items()
            if each.engine.failure is not None
        }
        status = "failed" if failed else "stopping" if self._front.stopping else "ok"
        return JSONResponse({"status": status, "failed": sorted(failed)}, 200 if status == "ok" else 503)

    def models(self) -> Response:
        """The models, in OpenAI's form, with their tasks and paths."""
        data = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "flagai",
                "tasks": list(each.model.pipelines),
                "paths": [end.path for end in ENDPOINTS if end.ability(each.model) is not None],
                "language": each.model.language,
                "blanks": each.model.blanks,
                "labels": each.model.classes,
            }
            for name, each in self._front.models.items()
        ]
        return JSONResponse({"object": "list", "data": data})

    def info(self) -> Response:
        """The models and limits, in TEI's form; of the model that embeds, or the first one."""
        models = list(self._front.models.values())
        first = next((each.model for each in models if "embedding" in each.model.pipelines), models[0].model)
        bounds = self._front.bounds
        return JSONResponse(
            {
                "model_id": first.name,
                "model_sha": None,
                "model_dtype": str(next(first.model.parameters()).dtype).removeprefix("torch."),
                "model_type": {"embedding": {"pooling": "mean"}} if "embedding" in first.pipelines else {},
                "max_concurrent_requests": bounds.queue,
                "max_input_length": first.max_sentence_tokens,
                "max_batch_tokens": bounds.pack_tokens,
                "max_client_batch_size": bounds.texts,
                "version": __version__,
                "models": list(self._front.models),
            }
        )

    def metrics(self) -> Response:
        """The metrics."""
        return Response(self._front.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def openapi(self) -> Response:
        """The OpenAPI document."""
        return JSONResponse(self._document)


def _hash(page: str) -> str:
    """The page's script as a content security policy names it: nothing else is executed."""
    script = page.partition("<script>")[2].partition("</script>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def application(front: Front, *, origins: Sequence[str] = (), hosts: Sequence[str] = ("*",)) -> Starlette:
    """The ASGI application.

    Args:
        front: what all calls share.
        origins: from which other pages browsers may call; none by default.
        hosts: the names by which the server may be called.
    """
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    if origins:
        headers = ["authorization", "content-type"]
        methods = ["GET", "POST"]
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=methods, allow_headers=headers)
        )
    routes = [
        *Pages(front).routes(),
        *(Route(each.path, _Asgi(front.app(each)), methods=["POST"]) for each in ENDPOINTS),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, RequestError: _refused}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class _Asgi:
    """A route's application; Starlette takes functions for those that answer requests."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


async def _refused(_: HttpRequest, error: Any) -> Response:
    if isinstance(error, RequestError):
        return JSONResponse(error.body(), error.status, error.headers)
    known = ", ".join((*PLAIN, *(each.path for each in ENDPOINTS)))
    words = f"There is no such path. Known: {known}." if error.status_code == 404 else str(error.detail)
    return JSONResponse(RequestError(error.status_code, words).body(), error.status_code, error.headers)
