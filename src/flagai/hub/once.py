"""Do something once, however many processes ask for it at the same time."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.lock import Lock, acquire
from flagai.hub.manifest import write_json
from flagai.hub.policy import Policy
from flagai.hub.ranks import election

_FAILED = "failed.json"
logger = logging.getLogger(__name__)


def once(work: Path, wanted: str, job: Callable[[Lock], None], done: Callable[[], bool], policy: Policy) -> None:
    """Run a job in one process; the others wait until it has done the work.

    A process that dies or is cut off is taken over by one that waits. If the job fails, those who waited for it fail
    with the same message instead of trying one after the other.

    Args:
        work: flagai's own folder in the model's folder; the lock is in it.
        wanted: what the job is about.
        job: does the work under the lock that it is given.
        done: whether there is nothing left to do; cheap.
        policy: how patient to be.

    Raises:
        HubError: the job failed, here or in the process that this one waited for.
    """
    if done():
        return
    vote = election(work, hashlib.sha256(wanted.encode()).hexdigest()[:16], policy)
    if vote is not None and not vote.leads:
        failure = vote.wait()
        if failure is not None:
            raise HubError(failure)
    failure = "the process that fetched was ended"
    try:
        _locked(work, job, done, policy)
        failure = None
    except Exception as error:
        failure = str(error)
        raise
    finally:
        if vote is not None and vote.leads:
            vote.tell(failure)


def _locked(work: Path, job: Callable[[Lock], None], done: Callable[[], bool], policy: Policy) -> None:
    """Do the job under the lock; who is overtaken, because it stood still for too long, waits like everybody else."""
    while (lock := acquire(work, policy, done, lambda owner: _failure(work, owner))) is not None:
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
                logger.warning("this process was overtaken in %s (%s); waiting for the other", work.parent, error)


def _failure(work: Path, owner: str) -> str | None:
    """Why the attempt of an owner failed, if it did."""
    try:
        content = json.loads((work / _FAILED).read_text(encoding="utf-8"))
        return str(content["error"]) if content["owner"] == owner else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
