"""Connections whose clients neither send nor read are closed."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """A connection that ends if a request does not arrive, or an answer is not read, within a while.

    ``app_state`` has the seconds (``idle_seconds``), and whether the server is ``stopping``.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of a new connection."""
        super().connection_made(transport)
        self._be_patient()

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a request is whole; start it while one is not."""
        super().data_received(data)
        if self.cycle is not None and self.app_state["stopping"]:
            # One that was accepted while the server began to stop is not among those that it has told to end.
            self.cycle.keep_alive = False
        if self.flow.write_paused:  # what has come does not tell that the client reads
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._be_done()
        elif self._timer is None:
            self._be_patient()

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read."""
        super().pause_writing()
        self._be_patient()

    def resume_writing(self) -> None:
        """Stop the clock of a client that reads again."""
        super().resume_writing()
        self._be_done()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._be_done()
        super().connection_lost(exc)

    def _be_patient(self) -> None:
        self._be_done()
        self._timer = self.loop.call_later(self.app_state["idle_seconds"], self.transport.abort)

    def _be_done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
