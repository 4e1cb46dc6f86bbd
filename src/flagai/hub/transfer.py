"""Download one file, which never has its name before it is complete: resumed, in segments, verified."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import requests

from flagai.errors import HubError
from flagai.hub.answers import check_size, refuse_page, validator_of, version_of, whole_number
from flagai.hub.errors import (
    CancelledError,
    ChangedError,
    CorruptError,
    NoRangesError,
    PageError,
    RefusedError,
    TemporaryError,
)
from flagai.hub.hasher import Hasher
from flagai.hub.names import origin, shown
from flagai.hub.partial_file import Identity, PartialFile
from flagai.hub.policy import MEGABYTE
from flagai.hub.progress import Advance
from flagai.hub.sources import Link, RemoteFile
from flagai.hub.web import Web
from flagai.system import interruptibly

logger = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_EXPIRED = (401, 403, 404, 410)
_NOTEWORTHY = 1 << 14  # so many bytes, and failures start to count anew
_ROUNDS = 3
_Gaps = deque[tuple[int, int | None]]


class DownloadedFile(NamedTuple):
    """A file that came as a whole."""

    sha256: str
    version: str | None  # what the server calls this version of it


def download_file(
    remote: RemoteFile, source: str, target: Path, work: Path, web: Web, advance: Advance
) -> DownloadedFile:
    """Download a file over http(s).

    Args:
        remote: the file.
        source: where it is and the revision, which tell whether bytes of an earlier attempt belong to the same file.
        target: the name that it gets when it is whole and verified.
        work: where it grows until then.
        web: the way to the network.
        advance: told the number of bytes as they come; negative when bytes are thrown away.

    Raises:
        HubError: the source does not give the file as announced; what arrived so far is kept for another time
            unless it is known to be wrong.
    """
    if remote.locate is None:
        raise HubError(f"{remote.name} has no address")
    work.parent.mkdir(parents=True, exist_ok=True)
    left = _ROUNDS - 1
    while True:
        link = remote.locate()
        size = remote.size if link.size is None or (remote.size is not None and not remote.measured) else link.size
        if link.size is not None and link.size != size:
            raise HubError(f"{remote.name} has {link.size} bytes there instead of {size}")
        check_size(remote.name, size or 0, web.policy)
        part = PartialFile(work, Identity(size, remote.sha256 or remote.git_sha1, f"{source} {remote.name}"))
        try:
            return Transfer(remote, link, part, web, advance).run(target)
        except HubError as error:
            advance(-part.count)
            if isinstance(error, PageError | ChangedError):
                part.discard()
            if isinstance(error, ChangedError):
                left = min(left, error.rounds)
            elif not (isinstance(error, RefusedError) and error.status in _EXPIRED and part.count):
                raise  # otherwise the link may have expired: ask for a new one, and go on
            if not left:
                raise HubError(str(error)) from error
            left -= 1
            logger.warning("%s; trying again", error)
        finally:
            part.close()


class Transfer:
    """One attempt at a file, with as many connections and retries as it takes."""

    def __init__(self, remote: RemoteFile, link: Link, part: PartialFile, web: Web, advance: Advance) -> None:
        self.remote, self.link, self.part, self.web, self.advance = remote, link, part, web, advance
        self.ranges = True  # whether the server gives parts
        self.direct: Link | None = None  # where redirects led
        self.version: str | None = None
        self.failed, self.answered = threading.Event(), threading.Event()
        self._learning = threading.Lock()

    def run(self, target: Path) -> DownloadedFile:
        """Transfer what is missing, verify the whole, and give it its name."""
        self.advance(self.part.count)
        hasher = Hasher(self.part, git=self.remote.git_sha1 is not None)
        try:
            try:
                self._transfer()
            except NoRangesError:
                hasher.stop()
                self._begin_anew()
                self.ranges = False
                self.failed.clear()
                self._get(0, self.part.identity.size)
                hasher = Hasher(self.part, git=self.remote.git_sha1 is not None)
            size, sha256, git_sha1 = hasher.finish()
        finally:
            hasher.stop()
        self._verify(size, sha256, git_sha1)
        self.part.publish(target)
        return DownloadedFile(sha256, self.version)

    def _begin_anew(self) -> None:
        self.advance(-self.part.count)
        self.part.restart()

    def _transfer(self) -> None:
        policy, size = self.web.policy, self.part.identity.size
        if size is None or size < policy.large:
            for gap in self.part.gaps():
                self._get(*gap)
            return
        gaps = deque(self.part.gaps(policy.segment))
        with ThreadPoolExecutor(policy.connections, thread_name_prefix="flagai-fetch") as pool:
            try:
                # The first request tells whether the server knows ranges; only then others begin.
                running = [pool.submit(self._work, gaps)]
                interruptibly(self.answered.wait)
                while len(running) < policy.connections and gaps and not self.failed.is_set():
                    before = self.part.count
                    wait(running[:1], timeout=policy.ramp)
                    # Where one connection is fast, more of them only compete for the processor.
                    if self.part.count - before < policy.fast * policy.ramp:
                        running.append(pool.submit(self._work, gaps))
                interruptibly(lambda seconds: not wait(running, timeout=seconds).not_done)
                errors = [error for future in running if (error := future.exception()) is not None]
            except BaseException:  # Ctrl-C: the others would go on to the end of the file
                self.failed.set()
                raise
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error

    def _work(self, gaps: _Gaps) -> None:
        try:
            while True:
                try:
                    gap = gaps.popleft()
                except IndexError:
                    return
                self._get(*gap)
        except BaseException:
            self.failed.set()
            raise
        finally:
            self.answered.set()

    def _get(self, start: int, end: int | None) -> None:
        position, finish = start, end

        def attempt() -> None:
            nonlocal position, finish
            if not self.ranges and position:
                self._begin_anew()
                position = start
            if self._reached(position, finish):
                return  # the connection broke after the last byte
            begin, since = position, time.monotonic()
            try:
                response = self._ask(position, finish)
                with response:
                    finish = self._check(response, position, finish)
                    self.answered.set()
                    for data in self._stream(response):
                        self._keep(position, data, finish)
                        position += len(data)
                if finish is not None and position < finish:
                    raise TemporaryError(f"{self._what}: the connection closed {finish - position} bytes early")
            except TemporaryError as error:
                least = max(_NOTEWORTHY, self.web.policy.slowest * (time.monotonic() - since))
                error.progress |= self.ranges and position - begin >= least
                raise

        if not self._reached(position, finish):
            self.web.patiently(attempt)
        if self.part.identity.size is None:
            self.part.learn(position, None)

    def _keep(self, position: int, data: bytes, finish: int | None) -> None:
        if finish is not None and position + len(data) > finish:
            raise ChangedError(f"{self._what} sends more than the announced {finish} bytes")
        check_size(self.remote.name, position + len(data), self.web.policy, sized=finish is not None)
        self.part.write(position, data)
        self.advance(len(data))

    @staticmethod
    def _reached(position: int, finish: int | None) -> bool:
        return finish is not None and position >= finish

    @property
    def _what(self) -> str:
        return f"{self.remote.name} at {shown(self.link.url)}"

    def _ask(self, start: int, end: int | None) -> requests.Response:
        headers: dict[str, str] = {}
        size = self.part.identity.size
        if self.ranges and (start or end != size):
            headers["Range"] = f"bytes={start}-" + ("" if end is None or end == size else str(end - 1))
            validator = self.part.identity.validator
            # With a checksum to come, the copies of a mirror may go by different ETags.
            if validator is not None and self.part.identity.digest is None:
                headers["If-Range"] = validator
        if self.direct is not None:
            try:
                return self.web.request("GET", self.direct.url, {**self.direct.headers, **headers})
            except RefusedError as error:
                self.direct = None
                raise TemporaryError(str(error)) from error
        try:
            response = self.web.request("GET", self.link.url, {**self.link.headers, **headers})
        except RefusedError as error:
            if error.status == 416:
                raise ChangedError(f"{self._what} is shorter than it was") from error
            raise
        if response.url is not None and shown(response.url) != shown(self.link.url):
            same = origin(response.url) == origin(self.link.url)  # the token is for this host only
            self.direct = Link(response.url, self.link.headers if same else {})
        return response

    def _check(self, response: requests.Response, start: int, end: int | None) -> int | None:
        """Make sure that the answer is about the bytes that were asked for; return where they end."""
        asked = response.request.headers.get("Range") is not None
        total, length = self._total(response, start, asked)
        self.version = version_of(response)
        validator = validator_of(response)
        if self.remote.unproven:
            refuse_page(self.remote.name, response.headers.get("Content-Type", ""), b"")
        with self._learning:
            identity = self.part.identity
            known = identity.digest is None and identity.validator is not None
            if known and validator != identity.validator:
                raise ChangedError(f"{self._what} was changed during the transfer")
            if total is not None and identity.size is not None and total != identity.size:
                raise ChangedError(f"{self._what} has {total} bytes there instead of {identity.size}")
            self.part.learn(total, validator)
        if asked and (response.status_code == 200 or not self.part.identity.provable):
            raise NoRangesError(f"{self._what} can only be had as a whole")
        return end if end is not None else (None if length is None else start + length)

    def _total(self, response: requests.Response, start: int, asked: bool) -> tuple[int | None, int | None]:
        """The size of the whole file and of this answer, as far as the server tells them."""
        length = whole_number(response.headers.get("Content-Length"))
        if response.status_code == 200:
            return length, length
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not asked or match is None or int(match[1]) != start:
            raise TemporaryError(f"{self._what}: the server answered with other bytes than it was asked for")
        return (None if match[3] == "*" else int(match[3])), length

    def _stream(self, response: requests.Response) -> Iterator[bytes]:
        policy = self.web.policy
        begin, count = time.monotonic(), 0
        for data in self.web.received(response, MEGABYTE, lambda: policy.stall_seconds):
            self.web.check()
            if self.failed.is_set():
                raise CancelledError("another connection failed")
            yield data
            count += len(data)
            if (now := time.monotonic()) - begin > policy.stall_seconds:
                if count < policy.slowest * policy.stall_seconds:
                    raise TemporaryError(f"{self._what}: {count} bytes in {now - begin:.0f} s, which is too slow")
                begin, count = now, 0

    def _verify(self, size: int, sha256: str, git_sha1: str | None) -> None:
        remote, expected = self.remote, self.part.identity.size
        if expected is not None and size != expected:
            raise ChangedError(f"{self._what} gave {size} bytes instead of {expected}")
        if remote.sha256 is not None and sha256 != remote.sha256:
            raise CorruptError(f"{self._what} is corrupt: its sha256 is {sha256} instead of {remote.sha256}")
        if remote.git_sha1 is not None and git_sha1 != remote.git_sha1:
            raise CorruptError(f"{self._what} is corrupt: its git sha1 is {git_sha1} instead of {remote.git_sha1}")
        if remote.unproven:
            if not size:
                raise PageError(f"{self._what} is empty, and no checksum says that it should be")
            refuse_page(remote.name, "", self.part.read(0, 4096))
