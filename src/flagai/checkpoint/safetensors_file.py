"""Read a safetensors file as views of one memory mapping: no copy, no byte read before it is used."""

import json
import math
import mmap
from pathlib import Path
from typing import Any

import torch

from flagai.errors import CheckpointError

# The format's own limit for a header; a larger number is a damaged or hostile file.
_HEADER_LIMIT = 100_000_000
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Map a safetensors file and return its tensors by name.

    The tensors are private views of the page cache: processes that open the same file share its
    memory, and writing to a tensor changes only this process' copy of the touched pages.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is shorter than its header says, or the header is not consistent.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 8:
            raise CheckpointError(f"{path} has {size} bytes, too few for a safetensors file. Fetch it again.")
        mapping = _map(file.fileno(), size)
    header, start = _read_header(path, mapping)
    entries = _check_header(path, header, size - start)
    return {name: _view(mapping, start + begin, dtype, shape) for name, (dtype, shape, begin) in entries.items()}


def _map(descriptor: int, size: int) -> mmap.mmap:
    """Map a file copy-on-write, so that parameters can be trained in place without touching the file."""
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)


def _read_header(path: Path, mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(mapping[:8], "little")
    if length > min(_HEADER_LIMIT, len(mapping) - 8):
        raise CheckpointError(
            f"{path} is not a whole safetensors file: it announces a header of {length} bytes and has "
            f"{len(mapping)} bytes in all. Fetch it again."
        )
    try:
        header = json.loads(mapping[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged safetensors header ({error}). Fetch it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a safetensors header that is no JSON object. Fetch it again.")
    header.pop("__metadata__", None)
    return header, 8 + length


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _check_header(path: Path, header: dict[str, Any], available: int) -> dict[str, tuple[torch.dtype, list[int], int]]:
    """Return ``name -> (dtype, shape, first byte)`` after checking that the tensors tile the data exactly."""
    entries = {}
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            begin, end = entry["data_offsets"]
            numbers = [*shape, begin, end]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: the header entry of {name!r} cannot be read: {entry!r:.200}. Fetch it again."
            ) from error
        if not _are_possible(numbers):
            raise CheckpointError(
                f"{path}: the header entry of {name!r} has impossible numbers: {entry!r:.200}. Fetch it again."
            )
        length = dtype.itemsize * math.prod(shape)
        if end - begin != length:
            raise CheckpointError(
                f"{path}: the header gives {name!r} {end - begin} bytes, but {entry['dtype']} {shape} takes {length}. "
                "Fetch it again."
            )
        entries[name] = (dtype, shape, begin)
        spans.append((begin, end, name))
    _check_tiling(path, sorted(spans), available)
    return entries


def _are_possible(numbers: list[Any]) -> bool:
    """Whether extents and offsets are whole numbers whose product torch can count, zeros left aside."""
    return all(type(number) is int and 0 <= number < 2**62 for number in numbers) and (
        math.prod(number or 1 for number in numbers[:-2]) < 2**62
    )


def _check_tiling(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    expected = 0
    for begin, end, name in spans:
        if begin != expected:
            raise CheckpointError(
                f"{path}: {name!r} begins at byte {begin} where byte {expected} is due. Fetch it again."
            )
        expected = end
    if expected != available:
        raise CheckpointError(
            f"{path} is {'truncated' if expected > available else 'too long'}: the header describes {expected} bytes "
            f"of tensors and {available} are there. Fetch it again."
        )


def _view(mapping: mmap.mmap, begin: int, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    if begin % dtype.itemsize:  # files with an unpadded header; kernels expect aligned elements
        raw = torch.frombuffer(bytearray(mapping[begin : begin + count * dtype.itemsize]), dtype=torch.uint8)
        return raw.view(dtype).view(shape)
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=begin).view(shape)
