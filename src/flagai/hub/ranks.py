"""Agree on who fetches through torch.distributed's store, where processes have one.

A lock in the folder is always taken besides, so this needs not be perfect: it makes sure that one process begins even
where the file system does not keep its promises, and spreads the result at once. Nothing here is collective: any
number of ranks may ask. Which ranks share a folder is found out, not configured: whoever comes first puts an
identity into the folder, and those who read the same identity share it.
"""

import logging
import os
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from flagai.hub.policy import Policy

logger = logging.getLogger(__name__)
_ID = "id"
_rounds: dict[str, int] = {}
_rounds_lock = threading.Lock()


class Election:
    """One download for which the ranks choose who does it.

    Args:
        store: torch.distributed's key-value store.
        key: what the download is about, the same on all ranks that share the folder.
        policy: how often to give signs of life, and how long to wait for them.
    """

    def __init__(self, store: Any, key: str, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        with _rounds_lock:
            _rounds[key] = number = _rounds.get(key, 0) + 1
        self._key = f"flagai/{key}/{number}"
        self.leads = store.add(f"{self._key}/first", 1) == 1
        self._end = threading.Event()
        if self.leads:
            self._thread = threading.Thread(target=self._live, name="flagai-leader", daemon=True)
            self._thread.start()

    def tell(self, failure: str | None) -> None:
        """As the leader, tell the others how it ended."""
        self._end.set()
        self._thread.join()
        with suppress(RuntimeError):
            self._store.set(f"{self._key}/result", f"failed {failure}" if failure else "done")

    def wait(self) -> str | None:
        """As one of the others, wait until the leader is done or gives no more signs of life.

        Returns:
            Why the leader failed, or None: look for yourself then.
        """
        try:
            return self._watch()
        except RuntimeError as error:  # the store is gone; the lock in the folder remains
            logger.warning("the ranks cannot talk to each other: %s", error)
            return None

    def _watch(self) -> str | None:
        beat, since = b"", time.monotonic()
        while time.monotonic() - since < self._policy.stale:
            if self._store.check([f"{self._key}/result"]):
                result: str = self._store.get(f"{self._key}/result").decode()
                return result.removeprefix("failed ") if result.startswith("failed ") else None
            if self._store.check([f"{self._key}/beat"]):
                latest = self._store.get(f"{self._key}/beat")
                if latest != beat:
                    beat, since = latest, time.monotonic()
            time.sleep(min(0.2, self._policy.heartbeat / 2))
        logger.warning("the process that should fetch gives no sign of life")
        return None

    def _live(self) -> None:
        count = 0
        while not self._end.wait(self._policy.heartbeat if count else 0.0):
            count += 1
            with suppress(RuntimeError):
                self._store.set(f"{self._key}/beat", str(count))


def election(work: Path, wanted: str, policy: Policy) -> Election | None:
    """Choose among the ranks, if torch.distributed is in use.

    Args:
        work: flagai's own folder in the model's folder.
        wanted: what shall be fetched.
        policy: how patient to be.
    """
    store = _store()
    if store is None:
        return None
    identity = _identity(work)
    if identity is None:
        return None
    try:
        return Election(store, f"{identity}/{wanted}", policy)
    except RuntimeError as error:  # the store is closing, or its master is gone
        logger.debug("no election: %s", error)
        return None


def _store() -> Any:
    """The default group's store; torch is not imported for this."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    if distributed.get_world_size() == 1:
        return None
    get = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_get_default_store", None)
    return None if get is None else get()


def _identity(work: Path) -> str | None:
    """The identity of a folder, whoever looks at it from wherever."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(work / _ID, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        pass
    else:
        with os.fdopen(file, "w") as target:
            target.write(uuid.uuid4().hex)
    for _ in range(20):
        try:
            text = (work / _ID).read_text()
        except OSError:
            return None
        if len(text) == 32:
            return text
        time.sleep(0.05)  # its author is still writing
    return None
