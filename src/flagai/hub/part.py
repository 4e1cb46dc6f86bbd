"""A file that is not complete yet: which bytes of it are there, told on disk so that any process can go on."""

import json
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.manifest import write_json

_SAVE_EVERY = 1.0


@dataclass(frozen=True)
class Identity:
    """What must be equal for bytes of two transfers to belong to one file.

    Args:
        size: bytes.
        digest: the expected checksum. If it is known, only that and the size count, so that another source can go on.
        origin: the source and the name there.
        validator: the strong ETag or, failing that, the date that the server gave.
    """

    size: int | None
    digest: str | None
    origin: str
    validator: str | None = None

    @property
    def provable(self) -> bool:
        """Whether a later request can tell that it is still the same file: sizes alone prove nothing."""
        return self.digest is not None or self.validator is not None

    def continues(self, other: "Identity") -> bool:
        """Whether a transfer of this identity may go on with the bytes of another."""
        if self.size is None or self.size != other.size:
            return False
        if self.digest is not None or other.digest is not None:
            return self.digest == other.digest
        return self.origin == other.origin


class Part:
    """The file at ``path`` with the bytes so far, and ``path``.json with what they are.

    A part is never emptied: :meth:`discard` unlinks it and a new one begins, so that a process that was believed dead
    and wakes up writes into a file without a name.

    Args:
        path: where the bytes go until they are complete.
        identity: of the file that shall be fetched.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.done: list[tuple[int, int]] = []
        self.changed = threading.Condition()
        self.awaited = 0  # how many bytes without a gap the one who waits for ``changed`` is waiting for
        self._saved = 0.0
        self._open_or_begin()

    def _open_or_begin(self) -> None:
        known = self._read_notes()
        if known is not None and known[0].provable and self.identity.continues(known[0]):
            self.identity = known[0]
            self.done = known[1]
        else:
            self._unlink()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        present = os.fstat(self._file).st_size
        self.done = [(start, min(end, present)) for start, end in self.done if start < present]

    @property
    def count(self) -> int:
        """How many bytes are there."""
        return sum(end - start for start, end in self.done)

    @property
    def frontier(self) -> int:
        """How many bytes are there without a gap from the beginning."""
        return self.done[0][1] if self.done and self.done[0][0] == 0 else 0

    def gaps(self, segment: int | None = None) -> list[tuple[int, int | None]]:
        """The ranges that are missing, cut into segments; an end of None is unknown."""
        if self.identity.size is None:
            return [(self.frontier, None)]
        found: list[tuple[int, int | None]] = []
        position = 0
        for start, end in [*self.done, (self.identity.size, self.identity.size)]:
            while position < start:
                following = start if segment is None else min(start, (position // segment + 1) * segment)
                found.append((position, following))
                position = following
            position = max(position, end)
        return found

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes where they belong."""
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._file, view, offset + len(data) - len(view)) :]
        with self.changed:
            self._note(offset, offset + len(data))
            if self.frontier >= self.awaited:
                self.changed.notify()
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def _note(self, start: int, end: int) -> None:
        for index, (first, last) in enumerate(self.done):
            if last == start:
                self.done[index] = (first, end)
                break
        else:
            self.done.append((start, end))
        merged: list[tuple[int, int]] = []
        for first, last in sorted(self.done):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        self.done = merged

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that are there."""
        return os.pread(self._file, size, offset)

    def learn(self, size: int | None, validator: str | None) -> None:
        """Note what the server told first: size and validator."""
        identity = self.identity
        self.identity = Identity(
            identity.size if identity.size is not None else size,
            identity.digest,
            identity.origin,
            identity.validator or validator,
        )

    def save(self) -> None:
        """Write down which bytes are there; they are on the disk first unless a checksum will tell."""
        self._saved = time.monotonic()
        with self.changed:
            notes = {**vars(self.identity), "done": list(self.done)}
        if self.identity.digest is None:
            os.fdatasync(self._file)
        write_json(self._notes, notes)

    def close(self) -> None:
        """Keep what is there for another time."""
        if self._file >= 0:
            if self.done and self.path.exists():
                self.save()
            else:
                self._unlink()
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Forget what is there."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._unlink()

    def restart(self) -> None:
        """Begin anew, in a new file."""
        self.discard()
        self.identity = replace(self.identity, validator=None)
        self._open_or_begin()

    def publish(self, target: Path) -> None:
        """Give the complete file its name.

        Raises:
            HubError: another process has replaced the part.
        """
        os.fsync(self._file)
        try:
            mine = os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            mine = False
        if not mine:
            raise HubError(f"{self.path} was replaced by another process.")
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def flush(self) -> None:
        """Bring to the disk what was written so far, so that little is left to wait for at the end."""
        os.fdatasync(self._file)

    @property
    def _notes(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def _read_notes(self) -> tuple[Identity, list[tuple[int, int]]] | None:
        try:
            content = json.loads(self._notes.read_text(encoding="utf-8"))
            done = sorted((int(start), int(end)) for start, end in content.pop("done"))
            return Identity(**content), done
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None  # a part without sound notes is worthless

    def _unlink(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.done = []
