"""Read ``torch.save`` files, of both containers, without executing anything that they contain."""

import math
import zipfile
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.formats.pickle_machine import (
    DamagedPickleError,
    PickleMachine,
    StandIn,
    TensorReference,
    UnsafePickleError,
)
from flagai.checkpoint.mapped_files import map_file, tensor_at
from flagai.errors import CheckpointError
from flagai.typed_json import shown

# 80,000 storages; Python takes fifteen times as much for the list of a zip file's records.
_DIRECTORY_LIMIT = 8 << 20
# What legacy files begin with, each a pickle of its own.
_MAGIC = (0x1950A86A20F9469CFC6C, 1001)
# Training dumps keep the weights under one of these keys.
_WRAPPERS = ("module", "state_dict", "model_state_dict")
# Tied tensors and fused ones share their bytes, three times in T5; more tensors would be copied out of one storage.
_MOST_SHARING = 4
_ALLOWANCE = 1 << 20
_CURE = "Name the file that holds the model's state dict."
# The pickled value, and for each storage that it names the first byte and the byte behind the last one.
Archive = tuple[Any, dict[str, tuple[int, int]]]


def open_pickle(path: Path, *, mapped: bool = True) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.bin``/``.pt`` file by name, as views of the file.

    Only tensors and plain containers are rebuilt; any other class in the file is either known to be harmless, and
    dropped, or an error.

    Args:
        path: the file, in torch's zip format or its older one.
        mapped: map the file; see :func:`flagai.checkpoint.mapped_files.map_file`.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or names what may run code.
    """
    if not path.stat().st_size:
        raise CheckpointError(f"{path} is empty. Download it again.")
    memory = map_file(path, mapped=mapped)
    try:
        content, spans = (_read_zip if memory[:4] == b"PK\x03\x04" else _read_legacy)(path, memory)
        references = _references(path, content)
        _check_sharing(path, references, len(memory))
        return _tensors(memory, references, spans)
    except CheckpointError:
        raise
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path} asks for {error!s:.200} to be loaded, which may run code; nothing was run. "
            "Take the model from a source that you trust, as safetensors if there is a choice."
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the reader
        reason = f"{error!s:.200}" or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({reason}). Download it again.") from error


class _Bounded:
    """The bytes as a file for zipfile, which reads the list of records at once: not if that is large."""

    def __init__(self, memory: mmap) -> None:
        self.seek, self.tell = memory.seek, memory.tell
        self._read = memory.read

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY_LIMIT:
            raise DamagedPickleError(f"the list of records is said to have {size:,} bytes")
        return self._read(size)


def _read_zip(path: Path, memory: mmap) -> Archive:
    with zipfile.ZipFile(_Bounded(memory)) as archive:  # type: ignore[call-overload]  # all that it uses
        listed = archive.infolist()
    records = {record.filename.partition("/")[2]: record for record in listed}
    if len(records) < len(listed):
        raise DamagedPickleError("several records have the same name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in listed):
        raise CheckpointError(
            f"{path} was compressed after torch wrote it. Take the original, or unpack it and zip -0."
        )
    if "data.pkl" not in records:
        raise DamagedPickleError(f"the records are {list(records)[:3]!r:.200}, without data.pkl")
    if "byteorder" in records:
        begin, end = _span(memory, records["byteorder"])
        _check_order(path, memory[begin : min(end, begin + 10)] == b"little")
    machine = PickleMachine(memory, *_span(memory, records["data.pkl"]))
    content = machine.load()
    spans = {key: _span(memory, records[f"data/{key}"]) for key in machine.storages}
    if sum(end - begin for begin, end in spans.values()) > len(memory):
        raise DamagedPickleError("several records are the same bytes")
    return content, spans


def _span(memory: mmap, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a record lie: behind a header of its own, which repeats the name."""
    header = memory[record.header_offset : record.header_offset + 30]
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    begin = record.header_offset + 30 + name + extra
    if header[:4] != b"PK\x03\x04" or begin + record.file_size > len(memory):
        raise DamagedPickleError(f"the record {record.filename!r:.100} is not where it should be")
    return begin, begin + record.file_size


def _read_legacy(path: Path, memory: mmap) -> Archive:
    machine = PickleMachine(memory)
    if (machine.load(), machine.load()) != _MAGIC:
        raise DamagedPickleError("it does not begin as torch's files do")
    _check_order(path, machine.load().get("little_endian") is True)
    content, keys = machine.load(), machine.load()
    if sorted(keys) != sorted(machine.storages):
        raise DamagedPickleError("the list of storages is not that of the tensors")
    spans, at = {}, machine.at
    for key in keys:  # each storage follows its number of elements
        storage, count = machine.storages[key], int.from_bytes(memory[at : at + 8], "little")
        begin, at = at + 8, at + 8 + count * _itemsize(storage.dtype)
        if count != storage.count or at > len(memory):
            raise DamagedPickleError(f"the storage {key!r:.50} is cut short")
        spans[key] = begin, at
    return content, spans


def _check_order(path: Path, is_little: bool) -> None:
    if not is_little:
        raise CheckpointError(f"{path} was written by a big-endian machine. Save it again on a little-endian one.")


def _references(path: Path, content: Any) -> dict[str, TensorReference]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        kind = content.kind if isinstance(content, StandIn) else type(content).__name__
        raise CheckpointError(f"{path} holds a {kind:.200}, not a dictionary of tensors. {_CURE}")
    # Model-parallel files of FlagAI repeat every name beside the wrapper with the value None.
    found = {name: value for name, value in content.items() if isinstance(value, TensorReference)}
    for name, value in content.items():
        if isinstance(value, StandIn) and "._rebuild" in value.kind:
            raise CheckpointError(
                f"{path}: {name!r:.200} is a sparse, nested, quantized or empty (meta) tensor; only dense ones "
                "can be read. Save it again as a dense one."
            )
        if name in found and isinstance(found[name].dtype, str):
            raise CheckpointError(
                f"{path}: {name!r:.200} is of the type {found[name].dtype!s:.100}, which is not read. "
                "Save it again as float32."
            )
    if not found:
        raise CheckpointError(f"{path} holds no tensors by name: its keys are {shown(list(content)[:5])}. {_CURE}")
    return found


def _itemsize(dtype: torch.dtype | str) -> int:
    if isinstance(dtype, str):
        raise DamagedPickleError(f"a storage is a {dtype:.100}, which is not read")
    return dtype.itemsize


def _check_sharing(path: Path, references: Mapping[str, TensorReference], size: int) -> None:
    """Refuse tensors that overlap, or a storage under a thousand names; repetitions by a stride of 0 are no memory."""
    total = 0
    for reference in references.values():
        extents = zip(reference.shape, reference.stride, strict=True)
        total += math.prod(extent for extent, step in extents if step) * _itemsize(reference.dtype)
    if total > _MOST_SHARING * size + _ALLOWANCE:
        raise CheckpointError(
            f"{path} has {size:,} bytes, but its tensors, which overlap, are {total:,} bytes. Save it again with "
            "contiguous tensors, or take the model from a source that you trust."
        )


def _tensors(
    memory: mmap, references: Mapping[str, TensorReference], spans: Mapping[str, tuple[int, int]]
) -> dict[str, torch.Tensor]:
    """Tensors for references; those of one storage share its memory."""
    storages: dict[tuple[str, bool], torch.Tensor] = {}
    tensors = {}
    for name, reference in references.items():
        (begin, end), dtype = spans[reference.storage.key], reference.dtype
        if reference.storage.count * _itemsize(reference.storage.dtype) != end - begin:
            raise ValueError(f"{name!r:.200} is not one whole record of the file")
        assert isinstance(dtype, torch.dtype)  # noqa: S101 - `_references` has refused others
        if not math.prod(reference.shape):
            tensors[name] = torch.empty(reference.shape, dtype=dtype)
            continue
        steps = zip(reference.shape, reference.stride, strict=True)
        count = (end - begin) // dtype.itemsize
        if reference.offset + sum((extent - 1) * step for extent, step in steps) >= count:
            raise ValueError(f"{name!r:.200} reaches beyond its record")
        aligned = begin % dtype.itemsize == 0  # kernels expect aligned elements
        key = (reference.storage.key, aligned)
        if key not in storages:
            raw = tensor_at(memory, begin, torch.uint8, (end - begin,))
            storages[key] = raw if aligned else raw.clone()
        values = storages[key][: count * dtype.itemsize].view(dtype)
        tensors[name] = values.as_strided(reference.shape, reference.stride, reference.offset)
    return tensors
