"""The two containers of ``torch.save``: where the pickle and the memory of each storage lie in the file."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

from flagai.checkpoint.formats.pickle_machine import PickleMachine
from flagai.checkpoint.formats.pickle_values import DamagedPickleError, StorageReference
from flagai.errors import CheckpointError

# 80,000 storages; Python takes fifteen times as much for the list of a zip file's records.
_DIRECTORY_LIMIT = 8 << 20
# What legacy files begin with, each a pickle of its own.
_MAGIC = (0x1950A86A20F9469CFC6C, 1001)
Span = tuple[int, int]


@dataclass(frozen=True)
class Archive:
    """What a file holds.

    Args:
        content: the pickled value, with references instead of tensors.
        spans: for each storage that it names, the first byte and the byte behind the last one.
    """

    content: Any
    spans: Mapping[str, Span]


def read_archive(
    path: Path, memory: mmap, is_harmless: Callable[[str], bool], size_of: Callable[[str], int]
) -> Archive:
    """Read all of a file but the tensors.

    Args:
        path: the file, for messages.
        memory: its bytes.
        is_harmless: whether a class of this name may occur.
        size_of: the size of an element of a storage of this type.

    Raises:
        DamagedPickleError: the file is no such container, or it is damaged.
        UnsafePickleError: it names something that is not known to be harmless.
        CheckpointError: a tool has compressed it, or it was written by a machine of the other byte order.
    """
    if memory[:4] == b"PK\x03\x04":
        return _read_zip(path, memory, is_harmless)
    return _read_legacy(path, memory, is_harmless, size_of)


class _Bounded:
    """The bytes as a file for zipfile, which reads the list of records at once: not if that is large."""

    def __init__(self, memory: mmap) -> None:
        self.seek, self.tell = memory.seek, memory.tell
        self._read = memory.read

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY_LIMIT:
            raise DamagedPickleError(f"the list of records is said to have {size:,} bytes")
        return self._read(size)


def _read_zip(path: Path, memory: mmap, is_harmless: Callable[[str], bool]) -> Archive:
    with zipfile.ZipFile(_Bounded(memory)) as archive:  # type: ignore[call-overload]  # all that it uses
        listed = archive.infolist()
        records = {record.filename.partition("/")[2]: record for record in listed}
    if len(records) < len(listed):
        raise DamagedPickleError("several records have the same name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
        raise CheckpointError(
            f"{path} was compressed after torch wrote it. Take the original, or unpack it and zip -0."
        )
    if "data.pkl" not in records:
        raise DamagedPickleError(f"the records are {list(records)[:3]!r:.200}, without data.pkl")
    if "byteorder" in records and _bytes_of(memory, records["byteorder"]) != b"little":
        raise _other_order(path)
    machine = PickleMachine(memory, is_harmless, *_span(memory, records["data.pkl"]))
    content = machine.load()
    spans = {key: _span(memory, records[f"data/{key}"]) for key in machine.storages}
    if sum(end - begin for begin, end in spans.values()) > len(memory):
        raise DamagedPickleError("several records are the same bytes")
    return Archive(content, spans)


def _span(memory: mmap, record: zipfile.ZipInfo) -> Span:
    """Where the bytes of a record lie: behind a header of its own, which repeats the name."""
    header = memory[record.header_offset : record.header_offset + 30]
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    begin = record.header_offset + 30 + name + extra
    if header[:4] != b"PK\x03\x04" or begin + record.file_size > len(memory):
        raise DamagedPickleError(f"the record {record.filename!r:.100} is not where it should be")
    return begin, begin + record.file_size


def _bytes_of(memory: mmap, record: zipfile.ZipInfo) -> bytes:
    begin, end = _span(memory, record)
    return memory[begin : min(end, begin + 10)]


def _read_legacy(
    path: Path, memory: mmap, is_harmless: Callable[[str], bool], size_of: Callable[[str], int]
) -> Archive:
    machine = PickleMachine(memory, is_harmless)
    if (machine.load(), machine.load()) != _MAGIC:
        raise DamagedPickleError("it does not begin as torch's files do")
    if machine.load().get("little_endian") is not True:
        raise _other_order(path)
    content = machine.load()
    named, spans, at = machine.storages, {}, 0
    keys = machine.load()
    if sorted(keys) != sorted(named):
        raise DamagedPickleError("the list of storages is not that of the tensors")
    at = machine.at
    for key in keys:
        spans[key] = _legacy_span(memory, at, named[key], size_of)
        at = spans[key][1]
    return Archive(content, spans)


def _legacy_span(memory: mmap, at: int, storage: StorageReference, size_of: Callable[[str], int]) -> Span:
    """A storage's bytes: they follow their number of elements."""
    count = int.from_bytes(memory[at : at + 8], "little")
    end = at + 8 + count * size_of(storage.kind)
    if count != storage.count or end > len(memory):
        raise DamagedPickleError(f"the storage {storage.key!r:.50} is cut short")
    return at + 8, end


def _other_order(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} was written by a big-endian machine. Save it again on a little-endian one.")
