"""A file that is not complete yet: which bytes of it are there, told on disk so that any process can go on."""

import os
import threading
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagai.errors import HubError
from flagai.hub.manifest import write_json
from flagai.system import open_descriptor, patiently, remove_file, sync_data
from flagai.typed_json import Fields, read_json

_SAVE_EVERY = 1.0
_READ = 1 << 22
ByteRange = tuple[int, int, int]  # first byte, the one after the last, checksum (0 where that of the file is known)


@dataclass(frozen=True)
class Identity:
    """What must be equal for bytes of two transfers to belong to one file."""

    size: int | None
    digest: str | None  # if it is known, only this and the size count, so that another source can go on
    origin: str  # the source and the name there
    validator: str | None = None  # the strong ETag or, failing that, the date that the server gave

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


class PartialFile:
    """The file at ``path`` with the bytes so far, and ``path``.json with what they are.

    Where no checksum is known, the notes hold one for each range as it was written (a CRC, against accidents): after a
    power failure a file can be as long as it was and hold zeros. Ranges that do not match are fetched again.

    A part is never emptied: :meth:`discard` unlinks it and a new one begins, so that a process that was believed dead
    and wakes up writes into a file without a name.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.done: list[tuple[int, int]] = []
        self._written: list[ByteRange] = []  # as they came, each with its checksum
        self.changed = threading.Condition()
        self._place = threading.Lock()  # of the place that is read or written next: Windows has no pwrite
        self.awaited = 0  # how many bytes without a gap the one who waits for ``changed`` is waiting for
        self._saved = 0.0
        self._open_or_begin()

    def _open_or_begin(self) -> None:
        known = self._read_notes()
        if known is not None and known[0].provable and self.identity.continues(known[0]):
            self.identity, claimed = known
        else:
            self._unlink()
            claimed = []
        self._file = open_descriptor(self.path, os.O_RDWR | os.O_CREAT)
        self._written = [found for noted in claimed if (found := self._sound(noted)) is not None]
        self.done = _merged([(start, end) for start, end, _ in self._written])
        os.ftruncate(self._file, self.done[-1][1] if self.done else 0)  # what is beyond was never noted

    def _sound(self, noted: ByteRange) -> ByteRange | None:
        """What the disk has of a noted range: none of one whose checksum is wrong."""
        start, end, checksum = noted
        if self.identity.digest is not None:
            end = min(end, os.fstat(self._file).st_size)
            return (start, end, 0) if start < end else None
        found, position = 0, start
        while position < end and (data := self.read(position, min(_READ, end - position))):
            found = zlib.crc32(data, found)
            position += len(data)
        return noted if position == end and found == checksum else None

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
        with self._place:
            os.lseek(self._file, offset, os.SEEK_SET)
            while view:
                view = view[os.write(self._file, view) :]
        with self.changed:
            self._note(offset, data)
            if self.frontier >= self.awaited:
                self.changed.notify()
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def _note(self, start: int, data: bytes) -> None:
        end, known = start + len(data), 0
        for index, (first, last, checksum) in enumerate(self._written):
            if last == start:
                start, known = first, checksum
                del self._written[index]
                break
        self._written.append((start, end, zlib.crc32(data, known) if self.identity.digest is None else 0))
        self.done = _merged([(first, last) for first, last, _ in self._written])

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that are there."""
        with self._place:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, size)

    def learn(self, size: int | None, validator: str | None) -> None:
        """Note what the server told first: size and validator."""
        known = self.identity
        size = known.size if known.size is not None else size
        self.identity = replace(known, size=size, validator=known.validator or validator)

    def save(self) -> None:
        """Write down which bytes are there; they are on the disk first unless a checksum of the file will tell."""
        self._saved = time.monotonic()
        with self.changed:
            notes = {**vars(self.identity), "done": list(self._written)}
        if self.identity.digest is None:
            sync_data(self._file)
        write_json(self._notes, notes)

    def close(self) -> None:
        """Keep what is there for another time."""
        if self._file >= 0:
            kept = bool(self.done) and self.path.exists()
            if kept:
                self.save()
            self._close()
            if not kept:
                self._unlink()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Forget what is there."""
        self._close()
        self._unlink()

    def restart(self) -> None:
        """Begin anew, in a new file."""
        self.discard()
        self.identity = replace(self.identity, validator=None)
        self._open_or_begin()

    def publish(self, target: Path) -> None:
        """Give the complete file its name, unless another process has replaced the part, or written into it."""
        os.fsync(self._file)
        mine = os.fstat(self._file)
        if mine.st_size != self.frontier:
            raise HubError(f"{self.path} has {mine.st_size} bytes instead of {self.frontier}.")
        if not self.path.exists() or not os.path.samestat(mine, self.path.stat()):
            raise HubError(f"{self.path} was replaced by another process.")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._close()
        patiently(lambda: self.path.replace(target))
        self._notes.unlink(missing_ok=True)

    def flush(self) -> None:
        """Bring to the disk what was written so far, so that little is left to wait for at the end."""
        sync_data(self._file)

    @property
    def _notes(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def _read_notes(self) -> tuple[Identity, list[ByteRange]] | None:
        """A part without sound notes is worthless."""
        try:
            fields = Fields(read_json(self._notes, HubError), str(self._notes), HubError)
            digest, validator = fields.text("digest", None), fields.text("validator", None)
            identity = Identity(fields.integer("size", None), digest, fields.text("origin", ""), validator)
            ranges = sorted(_range(entry) for entry in fields.table["done"])
        except (HubError, KeyError, TypeError, ValueError):
            return None
        position = 0
        for start, end, _ in ranges:
            if not position <= start < end or (identity.size is not None and end > identity.size):
                return None
            position = end
        return identity, ranges

    def _unlink(self) -> None:
        remove_file(self.path)
        self._notes.unlink(missing_ok=True)
        self.done = []
        self._written = []


def _range(entry: Any) -> ByteRange:
    start, end, checksum = entry
    if not all(type(number) is int for number in (start, end, checksum)):
        raise ValueError("no range")
    return start, end, checksum


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch joined."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
