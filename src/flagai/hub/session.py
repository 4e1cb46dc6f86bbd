"""HTTP sessions whose every read ends in time, also where a server sends a byte now and then for ever.

The timeout of a socket begins anew with each byte. Status line, headers, interim answers, sizes of chunks and trailers
are read by ``http.client`` in loops of its own, so the deadline stands below it: where bytes leave the socket.
"""

import http.client
import io
import logging
import time
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager


class _WithoutQueries(logging.Filter):
    """Cuts the queries of addresses, which may hold what is secret, out of what urllib3 logs at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_cut(value) if isinstance(value, str) else value for value in record.args)
        return True


def _cut(text: str) -> str:
    begin, mark, _ = text.partition("?")
    return f"{begin}?..." if mark else text


_QUIET = _WithoutQueries()


class Clock:
    """When reading has to end; ``patience`` is how many seconds to wait for the next bytes."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._end = 0.0

    def start(self, seconds: float) -> None:
        """Give what is read from now on so many seconds."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return self._end - time.monotonic()


class Session(requests.Session):
    """A session for one thread; it follows no redirect, because requests would read the whole body of each."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.clock = Clock(patience)
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a server's would replace the user's token
        logging.getLogger("urllib3.connectionpool").addFilter(_QUIET)
        adapter = _Adapter(self.clock)
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Nowhere."""
        return None


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, as long as the clock lets them come."""

    def __init__(self, socket: Any, raw: io.RawIOBase, clock: Clock) -> None:
        self._socket, self._raw, self._clock = socket, raw, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._clock.left
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._socket.settimeout(min(left, self._clock.patience))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Adapter(HTTPAdapter):
    """urllib3's pools, and those of a proxy's tunnel, with answers that are read by the clock."""

    def __init__(self, clock: Clock) -> None:
        class Response(http.client.HTTPResponse):
            def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
                super().__init__(sock, *args, **options)
                self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach(), clock))

        def timed(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
            connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": Response})
            return type(pool.__name__, (pool,), {"ConnectionCls": connection})

        self._pools = {"http": timed(HTTPConnectionPool), "https": timed(HTTPSConnectionPool)}
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if type(manager) is ProxyManager:  # one for SOCKS has connections of its own
            manager.pool_classes_by_scheme = self._pools
        return manager
