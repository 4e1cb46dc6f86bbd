"""HTTP at a socket until a signal comes; answers that have begun are finished."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from flagai.serve.application import application
from flagai.serve.bounds import Bounds
from flagai.serve.connections import PatientProtocol
from flagai.serve.desk import Desk
from flagai.serve.front import Front
from flagai.serve.keys import ApiKeys


@dataclass(frozen=True, kw_only=True)
class FrontSettings:
    """How a front treats clients; plain data, which other processes can have.

    Args:
        bounds: the limits.
        keys: the clients' keys.
        origins: from which other pages browsers may call.
        hosts: the names by which the server may be called.
    """

    bounds: Bounds
    keys: ApiKeys
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ("*",)


class HttpServer(uvicorn.Server):
    """Speaks HTTP for a desk.

    Args:
        desk: what answers.
        settings: how clients are treated.
        tell: is called once it answers.
        stopping: is called when it is told to stop.
    """

    def __init__(
        self, desk: Desk, settings: FrontSettings, tell: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        bounds = settings.bounds
        app: Any = application(Front(desk, bounds, settings.keys), origins=settings.origins, hosts=settings.hosts)
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=2048,
            timeout_graceful_shutdown=max(1, round(bounds.stop_seconds)),
        )
        super().__init__(config)
        self._idle_seconds = bounds.idle_seconds
        self._tell = tell
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell that it answers."""
        self.lifespan.state |= {"idle_seconds": self._idle_seconds, "stopping": False}
        await super().startup(sockets)
        self._tell()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals here: uvicorn would end the process by the signal again, before its engines have ended."""
        with on_signals(lambda number: self.handle_exit(number, None)):
            yield

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end; a second signal ends at once."""
        super().handle_exit(sig, frame)
        self.lifespan.state["stopping"] = True
        self._stopping()


@contextmanager
def on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call a function when SIGTERM or SIGINT comes, on Windows also SIGBREAK."""
    loop = asyncio.get_running_loop()  # whose own handlers of signals Windows lacks

    def tell(number: int, _: object) -> None:
        loop.call_soon_threadsafe(stop, number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]
    before = [signal.signal(number, tell) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
