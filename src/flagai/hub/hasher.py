"""While a file is being written: hash it, and bring it to the disk, each in a thread of its own."""

import hashlib
import threading

from flagai.hub.partial_file import PartialFile

_READ = 1 << 22
_FLUSH_EVERY = 0.2


class Hasher:
    """Hashes the bytes of a part that are there without a gap: what the file holds, not what was received.

    With ``git`` it also computes the sha1 by which git names the content, which needs the size.
    """

    def __init__(self, part: PartialFile, git: bool = False) -> None:
        self._part = part
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {part.identity.size}\0".encode(), usedforsecurity=False) if git else None
        self._position, self._ended, self._over = 0, False, threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._follow, name="flagai-hasher", daemon=True)
        self._flusher = threading.Thread(target=self._flush, name="flagai-flusher", daemon=True)
        self._thread.start()
        self._flusher.start()

    def finish(self) -> tuple[int, str, str | None]:
        """How many bytes were hashed at last, their sha256, and git's sha1 if it was asked for.

        Raises:
            OSError: the disk could not keep what was written.
        """
        self.stop()
        if self._error is not None:
            raise self._error
        return self._position, self._sha256.hexdigest(), self._git.hexdigest() if self._git else None

    def stop(self) -> None:
        """End the thread after the bytes that are there."""
        with self._part.changed:
            self._ended = True
            self._part.changed.notify()
        self._thread.join()
        self._over.set()
        self._flusher.join()

    def _flush(self) -> None:
        while not self._over.wait(_FLUSH_EVERY):
            try:
                self._part.flush()
            except OSError as error:
                self._error = error  # the system reports a lost write only once
                return

    def _follow(self) -> None:
        while True:
            with self._part.changed:
                self._part.awaited = self._position + _READ
                while not self._ended and self._part.frontier < self._part.awaited:
                    self._part.changed.wait()
                ended, frontier = self._ended, self._part.frontier
            while self._position < frontier:
                data = self._part.read(self._position, min(_READ, frontier - self._position))
                if not data:
                    return  # the disk has less than was written; the caller sees the count
                self._sha256.update(data)
                if self._git is not None:
                    self._git.update(data)
                self._position += len(data)
            if ended:
                return
