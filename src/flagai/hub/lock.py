"""A lock among processes that share nothing but a folder, which may be a network file system.

``flock`` is ignored by some network file systems, so nothing here uses it. The lock is a numbered file, made with
``O_EXCL``, and its owner rewrites a counter in it: the heartbeat. Who waits watches the counter by his own clock, since
the clocks of two machines need not agree. If it stands still for too long, he makes the file with the next number:
exactly one can, no living lock is touched, and the owner, should he wake up, sees the higher number and knows that he
has lost.

Source: Gray and Cheriton 1989, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache Consistency".
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from flagai.errors import HubError
from flagai.hub.manifest import write_json
from flagai.hub.policy import Policy
from flagai.system import is_busy, open_descriptor, remove_file

logger = logging.getLogger(__name__)
_PREFIX = "lock."
_FAILED = "failed.json"


class Beat(NamedTuple):
    """What the file of a lock says."""

    number: int  # of the file
    text: str  # the whole content; when it changes, the owner lives
    owner: str = ""  # the owner's unique name, if it is written yet
    where: str = "unknown"  # host and process, for people
    progress: int = 0  # how many bytes the owner has moved


def read_beat(folder: Path) -> Beat | None:
    """The lock that counts in a folder: the one with the highest number."""
    numbers = _numbers(folder)
    text = _text(folder, numbers[-1]) if numbers else None
    if text is None:
        return None
    try:
        content = json.loads(text)
        return Beat(numbers[-1], text, content["owner"], content["where"], content["progress"])
    except (ValueError, KeyError, TypeError, RecursionError):  # made, but not written yet
        return Beat(numbers[-1], text)


def _text(folder: Path, number: int) -> str | None:
    try:
        return (folder / f"{_PREFIX}{number}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[len(_PREFIX) :]) for name in names if name.startswith(_PREFIX) and name[5:].isdecimal())


class Lock:
    """A lock that is held through its open file; leave the block to give it back."""

    def __init__(self, folder: Path, number: int, file: int, heartbeat: float) -> None:
        self.folder, self.number, self._file, self._heartbeat = folder, number, file, heartbeat
        self.owner = uuid.uuid4().hex
        self.lost, self._end = threading.Event(), threading.Event()
        self._count = self._progress = 0
        self._beat()
        self._thread = threading.Thread(target=self._live, name="flagai-heartbeat", daemon=True)
        self._thread.start()

    def advance(self, count: int) -> None:
        """Let those who wait see progress."""
        self._progress += abs(count)

    def still_mine(self) -> bool:
        """Whether no other process has taken over."""
        try:
            mine = os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            mine = False
        if not mine or _numbers(self.folder)[-1:] != [self.number]:
            self.lost.set()
        return not self.lost.is_set()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        mine = self.still_mine()
        os.close(self._file)
        if mine:
            for number in _numbers(self.folder):  # the lowest first, so that ours counts until the end
                if number <= self.number:
                    remove_file(self.folder / f"{_PREFIX}{number}")

    @property
    def _path(self) -> Path:
        return self.folder / f"{_PREFIX}{self.number}"

    def _live(self) -> None:
        while not self._end.wait(self._heartbeat):
            if not self.still_mine():
                logger.warning("%s was taken over by another process", self.folder)
                return
            try:
                self._beat()
            except OSError as error:  # a full disk, a lost server: those who wait will find out
                logger.debug("no heartbeat: %s", error)

    def _beat(self) -> None:
        self._count += 1
        where = f"process {os.getpid()} on {socket.gethostname()}"
        content = {"owner": self.owner, "where": where, "progress": self._progress, "beat": self._count}
        text = json.dumps(content).ljust(300).encode()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text)
        os.fsync(self._file)  # so that other nodes see it


def acquire(
    folder: Path, policy: Policy, done: Callable[[], bool], failure: Callable[[str], str | None]
) -> Lock | None:
    """Wait for the lock, or (None) until its owner has done what it is needed for.

    Raises:
        HubError: the owner failed, as ``failure`` tells of its name, or lives and makes no progress.
    """
    watch = _Watch(policy)
    while not done():
        beat = read_beat(folder)
        if watch.owner and (beat is None or beat.owner != watch.owner):
            reason = failure(watch.owner)
            if reason is not None:
                raise HubError(reason)
        if beat is None:
            if lock := _create(folder, 1, None, policy):
                return lock
            watch.sees_nothing(folder)
        elif watch.is_stale(beat):
            logger.warning("%s shows no sign of life; taking over its download in %s", beat.where, folder.parent)
            if lock := _create(folder, beat.number + 1, beat, policy):
                return lock
        time.sleep(min(0.2, policy.heartbeat / 2))
    return None


def _create(folder: Path, number: int, stale: Beat | None, policy: Policy) -> Lock | None:
    """Make the lock's file, if no other process does and nothing has changed since it was looked at."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_descriptor(folder / f"{_PREFIX}{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        # FileNotFoundError: its last owner has just tidied up; it is busy while it is being removed.
        if not (isinstance(error, FileExistsError | FileNotFoundError) or is_busy(error)):
            raise
        for place in (folder, *folder.parents):
            if place.is_symlink() and not place.exists():
                gone = os.readlink(place)
                raise HubError(f"{place} is a link to {gone}, which does not exist. Mount or make that.") from None
        return None
    lock = None
    try:
        below = [other for other in _numbers(folder) if other != number]
        unchanged = not below if stale is None else below[-1:] == [stale.number]
        if unchanged and (stale is None or _text(folder, stale.number) == stale.text):
            lock = Lock(folder, number, file, policy.heartbeat)
    finally:
        if lock is None:
            os.close(file)
            remove_file(folder / f"{_PREFIX}{number}")
    return lock


class _Watch:
    """What a waiting process has seen of the owner, by its own clock."""

    def __init__(self, policy: Policy) -> None:
        self.owner = ""
        self._policy = policy
        self._text: str | None = None
        self._progress = (-1, "")
        self._seen = self._text_since = self._progress_since = time.monotonic()

    def sees_nothing(self, folder: Path) -> None:
        """No lock can be read, and none can be made: that is normal for a moment only, while others come and go."""
        if time.monotonic() - self._seen > self._policy.stale:
            raise HubError(
                f"{folder} has a {_PREFIX}1 that cannot be read, or takes no new file, for {self._policy.stale:.0f} s. "
                "Remove that if no download is running."
            )

    def is_stale(self, beat: Beat) -> bool:
        self._seen = now = time.monotonic()
        if beat.owner and beat.owner != self.owner:
            self.owner = beat.owner
            logger.info("%s fetches; waiting for it", beat.where)
        if (beat.progress, beat.owner) != self._progress:
            self._progress, self._progress_since = (beat.progress, beat.owner), now
        if beat.text != self._text:
            self._text, self._text_since = beat.text, now
        if now - self._progress_since > self._policy.patience:
            raise HubError(
                f"{beat.where} has the lock for this download and lives, but has not moved a byte for "
                f"{self._policy.patience:.0f} s. End that process, or look into what holds it up."
            )
        return now - self._text_since > self._policy.stale


def once(work: Path, job: Callable[[Lock], None], done: Callable[[], bool], policy: Policy) -> None:
    """Run a job in one process; the others wait until it has done the work.

    A process that dies or is cut off is taken over by one that waits. If the job fails, those who waited for it fail
    with the same message instead of trying one after the other.

    Raises:
        HubError: the job failed, here or in the process that this one waited for.
    """
    while not done() and (lock := acquire(work, policy, done, lambda owner: _failure(work, owner))) is not None:
        with lock:
            (work / _FAILED).unlink(missing_ok=True)
            if done():
                return
            try:
                job(lock)
                return
            except Exception as error:
                if lock.still_mine():
                    write_json(work / _FAILED, {"owner": lock.owner, "error": str(error)})
                    raise
                logger.warning("another process has taken over %s (%s); waiting for it", work.parent, error)


def _failure(work: Path, owner: str) -> str | None:
    """Why the attempt of an owner failed, if it did."""
    try:
        content = json.loads((work / _FAILED).read_text(encoding="utf-8"))
        return str(content["error"]) if content["owner"] == owner else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
