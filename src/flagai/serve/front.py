"""From HTTP to a call and back: keys, limits, JSON, errors, disconnected clients, log and metrics."""

import asyncio
import json
import logging
import time
import uuid
from contextlib import aclosing, suppress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from flagai.errors import FlagAIError, quoted
from flagai.serve.bounds import Bounds
from flagai.serve.calls import Endpoint, EventStream
from flagai.serve.desk import Desk
from flagai.serve.keys import ApiKeys
from flagai.serve.refusals import RequestError

logger = logging.getLogger("flagai.serve.access")
_JSON = b"application/json"


class ClientGone(Exception):  # noqa: N818 - no error: clients may leave
    """The client has closed its connection."""


class Front:
    """What all calls that a process receives share.

    Args:
        desk: what answers them.
        bounds: the limits.
        keys: the clients' keys.
    """

    def __init__(self, desk: Desk, bounds: Bounds, keys: ApiKeys) -> None:
        self.desk = desk
        self.bounds = bounds
        self.keys = keys

    def app(self, endpoint: Endpoint) -> ASGIApp:
        """The ASGI application of a route."""

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await _Exchange(self, endpoint, scope, receive, send).run()

        return run


class _Exchange:
    """One request and its answer."""

    def __init__(self, front: Front, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        self._front = front
        self._endpoint = endpoint
        self._headers = dict(scope["headers"])
        self._named: str | None = scope["path_params"].get("model")
        self._receive = receive
        self._send = send
        self._id = uuid.uuid4().hex
        self._begin = time.monotonic()
        self._notes: dict[str, Any] = {}
        self._started = False
        self._first: float | None = None  # seconds until the first part of a stream

    async def run(self) -> None:
        """Answer it, whatever happens."""
        status = 500
        try:
            status = await self._answer()
        except RequestError as error:
            status = await self._refuse(error)
        except ClientGone:
            status = 499
        except TimeoutError:
            status = 503
            most = self._front.bounds.seconds
            message = f"The answer takes longer than {most:g} s, so it was canceled. Ask for less."
            await self._fail(RequestError(503, message, retry_after=1))
        except Exception as error:
            logger.exception("request %s has failed", self._id)
            kind = quoted(error) if isinstance(error, FlagAIError) else type(error).__name__
            await self._fail(RequestError(500, f"The server has failed: {kind}. Its log has request {self._id}."))
        finally:
            self._note(status)

    async def _refuse(self, error: RequestError) -> int:
        self._notes["error"] = str(error)[:80] if error.field is None else f"field {error.field}"
        await self._fail(error)
        return error.status

    async def _answer(self) -> int:
        front = self._front
        front.keys.check(self._headers.get(b"authorization", b""))
        content = await self._body()
        async with asyncio.timeout(front.bounds.seconds):
            answer = await self._unless_gone(front.desk.call(self._endpoint.path, content, self._named, self._notes))
            if isinstance(answer, EventStream):
                await self._unless_gone(self._stream(answer))
                return 200
        await self._reply(
            200, json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
        )
        return 200

    async def _body(self) -> bytes:
        """The body, within the limits of size and time.

        Raises:
            RequestError: it is too large, late, or not declared as JSON.
        """
        kind = self._headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != _JSON:
            raise RequestError(415, "Send JSON, with the header Content-Type: application/json.")
        most = self._front.bounds.body_bytes
        declared = self._headers.get(b"content-length", b"")
        too_large = RequestError(413, f"The body is larger than the {most:,} bytes that this server reads.")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._front.bounds.idle_seconds):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise RequestError(408, "The request did not arrive in time. Send it again.") from error

    async def _unless_gone(self, work: Any) -> Any:
        """The result of work, which is canceled when the client closes its connection.

        Raises:
            ClientGone: it has.
        """
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientGone
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _stream(self, stream: EventStream) -> None:
        """Send events. What goes wrong before the first one has a status of its own."""
        async with aclosing(stream.events) as events:  # type: ignore[type-var]
            async for event in events:
                if not self._started:
                    self._first = time.monotonic() - self._begin
                    await self._start(200, b"text/event-stream", [(b"cache-control", b"no-cache")])
                text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
                await self._part(f"data: {text}\n\n".encode())
        await self._send({"type": "http.response.body", "body": b""})

    async def _fail(self, error: RequestError) -> None:
        if self._started:  # of a stream: the client learns why the rest is missing
            await self._part(f"data: {json.dumps(error.body(), ensure_ascii=False)}\n\n".encode())
            await self._send({"type": "http.response.body", "body": b""})
            return
        body = json.dumps(error.body(), ensure_ascii=False).encode("utf-8")
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if error.status in (408, 413):  # the rest of the body is not read
            headers.append((b"connection", b"close"))
        with suppress(OSError):
            await self._reply(error.status, body, headers)

    async def _reply(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        await self._start(status, _JSON, [(b"content-length", str(len(body)).encode()), *(headers or [])])
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        own = [(b"content-type", kind), (b"x-request-id", self._id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": own + headers})

    async def _part(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _note(self, status: int) -> None:
        """Tell the log and the metrics."""
        seconds, path = time.monotonic() - self._begin, self._endpoint.path
        self._front.desk.note(path, status, seconds, self._first, self._notes)
        facts = {"request": self._id, "path": path, "status": status, "seconds": round(seconds, 6), **self._notes}
        logger.info("request", extra={"facts": facts})
