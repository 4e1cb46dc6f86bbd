"""The routes of a server."""

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flagai.serve.front import Front
from flagai.serve.pages import ENDPOINTS, OPEN, PLAIN
from flagai.serve.refusals import RequestError


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
        *(Route(path, _page(front, path), methods=["GET"]) for path in PLAIN),
        *(Route(each.path, _Asgi(front.app(each)), methods=["POST"]) for each in ENDPOINTS),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, RequestError: _refused}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def _page(front: Front, path: str) -> Any:
    async def answer(request: HttpRequest) -> Response:
        if path not in OPEN:
            front.keys.check(request.headers.get("authorization", "").encode("latin-1"))
        return await front.desk.page(path)

    return answer


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
