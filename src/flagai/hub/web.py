"""HTTP: one attempt at a time, with every failure sorted into "try again" and "do not"."""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from flagai import __version__, settings
from flagai.errors import HubError, OfflineError, quoted
from flagai.hub.answers import retry_after
from flagai.hub.errors import CancelledError, RefusedError, TemporaryError, UnreachableError
from flagai.hub.names import UNREADABLE, origin, shown
from flagai.hub.policy import Policy
from flagai.hub.session import Session
from flagai.typed_json import check_depth

_T = TypeVar("_T")
_Headers = Mapping[str, str] | None
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
# How urllib3 writes a connection (or a pool of them): by its class.
_CONNECTION = re.compile(r"\b\w+\(host='([^']*)', port=(\d+)\)")
_SECRET_HEADERS = ("Authorization", "Cookie")
_SECRETS = re.compile(r"(?<=//)\S*@|\?\S*")  # of a URL: user, password and query


@dataclass
class Web:
    """The way to the network: no socket is opened elsewhere in flagai."""

    policy: Policy = field(default_factory=Policy)
    stop: threading.Event = field(default_factory=threading.Event)  # when set, transfers end with `CancelledError`
    _local: threading.local = field(default_factory=threading.local)
    _answered: set[str] = field(default_factory=set)  # hosts
    _dead: set[str] = field(default_factory=set)  # hosts that did not answer once: no source has to wait for them again

    def request(self, method: str, url: str, headers: _Headers = None, body: _Headers = None) -> requests.Response:
        """Make one attempt, through redirects; the body of the answer is not read yet.

        Raises:
            OfflineError: offline mode is on.
            TemporaryError: no answer, or one that means "later".
            UnreachableError: the host cannot be reached, now or at an earlier attempt.
            RefusedError: any other answer than success.
        """
        if settings.offline():
            raise OfflineError("not asked, because offline mode is on")
        what, sent = f"{method} {shown(url)}", dict(headers or {})
        for _ in range(self.policy.redirects + 1):
            response = self._ask(method, url, sent, body)
            target = _redirect_of(response)
            if target is None:
                return self._checked(response, what)
            response.close()  # the body of a redirect may be endless, and is not needed
            url = _next_address(url, target, what)
            given = response.request.headers
            sent = {name: value for name, value in sent.items() if name not in _SECRET_HEADERS}
            if origin(url) == origin(response.url):  # the token is for this host only
                sent |= {name: given[name] for name in _SECRET_HEADERS if name in given}
            if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
                method, body = "HEAD" if method == "HEAD" else "GET", None
        raise RefusedError(f"{what}: more than {self.policy.redirects} redirects", 0)

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: _Headers) -> requests.Response:
        """Send one request, and read the head of the answer."""
        self.check()
        what, host, policy = f"{method} {shown(url)}", origin(url), self.policy
        if host in self._dead:
            raise UnreachableError(f"{what}: not asked again, because the host did not answer before")
        session = self._session()
        session.clock.start(policy.read_timeout)
        try:
            response = session.request(
                method,
                url,
                # Compressed answers would make byte ranges meaningless.
                headers={"Accept-Encoding": "identity", "User-Agent": f"flagai/{__version__}", **headers},
                json=body,
                # An authentication that changes nothing: without it, an entry of ~/.netrc would replace the token.
                auth=(lambda request: request) if "Authorization" in headers else None,
                stream=True,
                timeout=(policy.connect_timeout, policy.read_timeout),
            )
        except requests.exceptions.SSLError as error:
            raise RefusedError(f"{what}: the certificate is not trusted: {innermost_reason(error)}", 0) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            stranger = None if host in self._answered else host
            if stranger and isinstance(error, requests.ConnectTimeout):  # it would only take as long again
                self._dead.add(stranger)
                raise UnreachableError(f"{what}: no connection within {policy.connect_timeout:g} s") from error
            late = isinstance(error, requests.ReadTimeout)
            reason = f"no complete answer within {policy.read_timeout:g} s" if late else innermost_reason(error)
            raise TemporaryError(f"{what}: {reason}", stranger=stranger) from error
        except (requests.RequestException, HTTPError, ValueError) as error:
            # Its text may hold what is secret: the address or a header as a whole.
            raise RefusedError(f"{what}: cannot be sent ({type(error).__name__})", 0) from None
        self._answered.add(host)
        return response

    def _checked(self, response: requests.Response, what: str) -> requests.Response:
        """Let a success pass."""
        encoding = response.headers.get("Content-Encoding") or "identity"
        if response.status_code in (200, 206) and encoding == "identity":
            return response
        response.close()
        if response.status_code in (200, 206):
            raise RefusedError(f"{what}: the answer is compressed ({quoted(encoding)}), which was not asked for", 0)
        message = f"{what}: {response.status_code} {quoted(response.reason or '')}".rstrip()
        if explanation := response.headers.get("X-Error-Message"):
            message += f" ({quoted(explanation)})"
        if response.status_code in _TEMPORARY:
            raise TemporaryError(message, wait=retry_after(response.headers.get("Retry-After")))
        raise RefusedError(message, response.status_code)

    def json(self, method: str, url: str, headers: _Headers = None, body: _Headers = None) -> Any:
        """Fetch and parse a short JSON text, patiently."""
        text = self.text(method, url, headers, body)
        try:
            content = json.loads(text)  # names with half a character are refused one by one
            check_depth(content)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{method} {shown(url)}: the answer is not JSON: {quoted(text, 80)!r}") from error
        return content

    def text(self, method: str, url: str, headers: _Headers = None, body: _Headers = None) -> str:
        """Fetch a short text, patiently."""
        longest, seconds = self.policy.longest_text, self.policy.text_timeout

        def attempt() -> str:
            begin, content = time.monotonic(), bytearray()
            with self.request(method, url, headers, body) as response:
                for data in self.received(response, 1 << 16, lambda: begin + seconds - time.monotonic()):
                    content += data
                    if len(content) > longest:
                        raise HubError(f"{method} {shown(url)}: the answer has more than {longest} bytes")
            return content.decode("utf-8", errors="replace")

        text = self.patiently(attempt)
        if sum(map(text.count, ",[{")) > self.policy.most_values:  # a value takes many times the memory of its text
            raise HubError(f"{method} {shown(url)}: the answer has more than {self.policy.most_values} values")
        return text

    def received(self, response: requests.Response, size: int, seconds: Callable[[], float]) -> Iterator[bytes]:
        """The body as it comes in, each piece at most ``size`` bytes; ``seconds`` tells how long the next may take.

        Raises:
            TemporaryError: the connection broke, or nothing came in time.
        """
        read, clock = response.raw.read1, self._session().clock
        while True:
            try:
                clock.start(seconds())
                data = read(size, decode_content=False)
            except (HTTPError, OSError, ValueError) as error:
                late = isinstance(error, ReadTimeoutError | TimeoutError)
                reason = "the answer takes too long" if late else innermost_reason(error)
                raise TemporaryError(f"GET {shown(response.url)}: {reason}") from error
            if not data:
                return
            yield data

    def patiently(self, attempt: Callable[[], _T]) -> _T:
        """Repeat an attempt while it fails with a `TemporaryError`; at last it is an `UnreachableError`."""
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

    def _session(self) -> Session:
        """The session of this thread, since sessions are not made to be shared."""
        if not hasattr(self._local, "session"):
            self._local.session = Session(self.policy.read_timeout)
        return cast("Session", self._local.session)


def _redirect_of(response: requests.Response) -> str | None:
    """Where an answer leads, if it is a redirect; http.client reads UTF-8 as Latin-1."""
    if not response.is_redirect:
        return None
    return response.headers["Location"].encode("latin-1", errors="replace").decode("utf-8", errors="replace")


def _next_address(url: str, target: str, what: str) -> str:
    """Where a redirect leads."""
    try:
        address = urljoin(url, target)
    except ValueError:
        address = ""
    if not address.lower().startswith(("http://", "https://")) or origin(address) == UNREADABLE:
        raise RefusedError(f"{what}: leads to {quoted(shown(target))!r}, which is not an http(s) address", 0)
    return address


def innermost_reason(error: BaseException) -> str:
    """The innermost cause, in few words."""
    inner: BaseException = error
    while True:
        following = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        if not isinstance(following, BaseException):
            break
        inner = following
    text = str(inner).rpartition(">: ")[2] or type(inner).__name__
    text = _CONNECTION.sub(r"connection to \1:\2", text)
    return quoted(_SECRETS.sub("", text))
