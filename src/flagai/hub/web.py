"""HTTP: one attempt at a time, with every failure sorted into "try again" and "do not"."""

import email.utils
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from urllib3.exceptions import HTTPError

from flagai import __version__, settings
from flagai.errors import HubError, OfflineError
from flagai.hub.policy import MEGABYTE, Policy
from flagai.hub.spec import shown

_T = TypeVar("_T")
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_SECRETS = re.compile(r"(?<=//)[^/\s@]*@|\?\S*")  # of a URL: user, password and query
_LONGEST_ANSWER = 32 * MEGABYTE  # of a listing or a ticket


class TemporaryError(HubError):
    """An attempt failed in a way that another may not.

    Args:
        message: what happened.
        wait: the pause in seconds that the server asks for.
        progress: whether noteworthy progress was made before, so that the failures start to count anew.
        stranger: the host, if it has not answered once yet, so that it is probably dead or blocked.
    """

    def __init__(
        self, message: str, wait: float | None = None, progress: bool = False, stranger: str | None = None
    ) -> None:
        super().__init__(message)
        self.wait = wait
        self.progress = progress
        self.stranger = stranger


class UnreachableError(HubError):
    """A source failed on every attempt; it is not asked for further files."""


class RefusedError(HubError):
    """A server answered, and the answer is no.

    Args:
        message: what happened.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CancelledError(HubError):
    """The transfer was called off: another process has taken over, or another part of it failed."""


@dataclass
class Web:
    """The way to the network: no socket is opened elsewhere in flagai.

    Args:
        policy: how patient to be.
        stop: when set, running transfers end soon with a :class:`CancelledError`.
    """

    policy: Policy = field(default_factory=Policy)
    stop: threading.Event = field(default_factory=threading.Event)
    _local: threading.local = field(default_factory=threading.local)
    _answered: set[str] = field(default_factory=set)  # hosts
    _dead: set[str] = field(default_factory=set)  # hosts that did not answer once: no source has to wait for them again

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Make one attempt; the body of the answer is not read yet.

        Raises:
            OfflineError: offline mode is on.
            TemporaryError: no answer, or one that means "later".
            UnreachableError: the host cannot be reached, now or at an earlier attempt.
            RefusedError: any other answer than success.
        """
        if settings.offline():
            raise OfflineError("not asked, because offline mode is on")
        self.check()
        what, host = f"{method} {shown(url)}", origin(url)
        if host in self._dead:
            raise UnreachableError(f"{what}: not asked again, because the host did not answer before")
        policy = self.policy
        try:
            response = self._session().request(
                method,
                url,
                # Compressed answers would make byte ranges meaningless.
                headers={"Accept-Encoding": "identity", "User-Agent": f"flagai/{__version__}", **(headers or {})},
                json=body,
                auth=_as_it_is if headers and "Authorization" in headers else None,
                stream=True,
                timeout=(policy.connect_timeout, policy.read_timeout),
            )
        except requests.exceptions.SSLError as error:
            raise RefusedError(f"{what}: the certificate is not trusted: {_reason(error)}", 0) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failed = origin(error.request.url) if error.request is not None else host  # we may have been redirected
            stranger = None if failed in self._answered else failed
            if stranger and isinstance(error, requests.ConnectTimeout):  # it would only take as long again
                self._dead.add(stranger)
                raise UnreachableError(f"{what}: no connection within {policy.connect_timeout:g} s") from error
            raise TemporaryError(f"{what}: {_reason(error)}", stranger=stranger) from error
        except (requests.RequestException, ValueError) as error:  # ValueError: no URL at all
            raise RefusedError(f"{what}: {_reason(error)}", 0) from error
        self._answered.add(host)
        encoding = response.headers.get("Content-Encoding") or "identity"
        if response.status_code in (200, 206) and encoding == "identity":
            return response
        with response:
            if response.status_code in (200, 206):
                raise RefusedError(f"{what}: the answer is compressed ({encoding}), which was not asked for", 0)
            self._refuse(response, what)
        raise AssertionError

    def json(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
    ) -> Any:
        """Fetch and parse a short JSON text, patiently."""
        text = self.text(method, url, headers, body)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{method} {shown(url)}: the answer is no JSON: {text[:80]!r}") from error

    def text(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
    ) -> str:
        """Fetch a short text, patiently."""

        def attempt() -> str:
            with self.request(method, url, headers, body) as response:
                content = b""
                for data in received(response, 1 << 16):
                    content += data
                    if len(content) > _LONGEST_ANSWER:
                        raise HubError(f"{method} {shown(url)}: the answer has more than {_LONGEST_ANSWER} bytes")
                return content.decode("utf-8", errors="replace")

        return self.patiently(attempt)

    def patiently(self, attempt: Callable[[], _T]) -> _T:
        """Repeat an attempt while it fails with a :class:`TemporaryError`.

        Raises:
            UnreachableError: it failed too often.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except TemporaryError as error:
                failures = 1 if error.progress else failures + 1
                self._pause(error, failures)

    def check(self) -> None:
        """Raise a :class:`CancelledError` if the transfer was called off."""
        if self.stop.is_set():
            raise CancelledError("called off")

    def _pause(self, error: TemporaryError, failures: int) -> None:
        policy = self.policy
        if failures >= (min(policy.attempts, policy.first_attempts) if error.stranger else policy.attempts):
            if error.stranger:
                self._dead.add(error.stranger)
            raise UnreachableError(f"{error} (given up after {failures} attempts)") from error
        if error.wait is not None and error.wait > policy.longest_retry_after:
            raise UnreachableError(f"{error} (it asks to wait {error.wait:.0f} s)") from error
        longest = min(policy.backoff * 2.0 ** (failures - 1), policy.longest_backoff)
        wait = longest * random.uniform(0.5, 1.0) + (error.wait or 0.0)  # noqa: S311 - spreads load, keeps no secret
        if self.stop.wait(wait):
            raise CancelledError("called off") from error

    def _session(self) -> requests.Session:
        """The session of this thread: sessions are not made to be shared."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
        return session

    def _refuse(self, response: requests.Response, what: str) -> None:
        message = f"{what}: {response.status_code} {response.reason or ''}".rstrip()
        if explanation := response.headers.get("X-Error-Message"):
            message += f" ({explanation[:200]})"
        if response.status_code in _TEMPORARY:
            raise TemporaryError(message, wait=_retry_after(response.headers.get("Retry-After")))
        raise RefusedError(message, response.status_code)


class _Session(requests.Session):
    """A session that follows redirects with the token where it is meant to go, and nowhere else."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Keep the token for the same origin, where an entry of ~/.netrc would replace it; drop it for any other."""
        if "Authorization" in prepared_request.headers:
            if origin(prepared_request.url) == origin(response.url):
                return
            del prepared_request.headers["Authorization"]
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]


def origin(url: str | None) -> str:
    """Scheme, host and port: who gets what is sent."""
    scheme, _, rest = shown(url).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}".lower()


def received(response: requests.Response, size: int) -> Iterator[bytes]:
    """The body as it comes in, each piece at most ``size`` bytes and never waiting for more than one.

    Raises:
        TemporaryError: the connection broke, or nothing came in time.
    """
    read = response.raw.read1
    while True:
        try:
            data = read(size, decode_content=False)
        except (HTTPError, OSError) as error:
            raise TemporaryError(f"GET {shown(response.url)}: {_reason(error)}") from error
        if not data:
            return
        yield data


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep the token: without this, an entry of ~/.netrc would replace it."""
    return request


def _reason(error: BaseException) -> str:
    """The innermost cause, in few words."""
    inner: BaseException = error
    while True:
        following = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        if not isinstance(following, BaseException):
            break
        inner = following
    text = str(inner).rpartition(">: ")[2] or type(inner).__name__
    return _SECRETS.sub("", text)[:200]


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: the header holds a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
