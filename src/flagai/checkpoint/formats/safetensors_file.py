"""Read a safetensors file as views of one memory mapping: no copy, no byte read before it is used."""

import math
from mmap import mmap
from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.formats.pickle_machine import LONGEST_NAME, MOST_DIMENSIONS, are_countable
from flagai.checkpoint.mapped_files import map_file, tensor_at
from flagai.errors import CheckpointError
from flagai.typed_json import parse_json, shown

# Parsed, a header takes 25 times its size. 100 bytes describe a tensor; the format itself allows 100 MB.
_HEADER_LIMIT = 25 << 20
# A small file has a small header, or an eighth of it is one.
_HEADER_ALLOWANCE = 1 << 20
_HEADER_SHARE = 8
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "C64": torch.complex64,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def open_safetensors(path: Path, *, mapped: bool = True) -> dict[str, torch.Tensor]:
    """Map a safetensors file and return its tensors by name.

    The tensors are private views of the page cache: processes that open the same file share its
    memory, and writing to a tensor changes only this process' copy of the touched pages.

    Args:
        path: the file.
        mapped: map the file; see :func:`flagai.checkpoint.mapped_files.map_file`.

    Raises:
        CheckpointError: the file is shorter than its header says, or the header is not consistent.
    """
    size = path.stat().st_size
    if size < 8:
        raise CheckpointError(f"{path} has {size} bytes, too few for a safetensors file. Download it again.")
    memory = map_file(path, mapped=mapped)
    header, start = _read_header(path, memory)
    tensors, spans = {}, []
    for name, entry in header.items():
        if len(name) > LONGEST_NAME:
            raise CheckpointError(f"{path}: a name has {len(name):,} characters: {shown(name)}. Download it again.")
        try:
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            possible = are_countable(shape, [begin, end]) and len(shape) <= MOST_DIMENSIONS
            possible = possible and end - begin == dtype.itemsize * math.prod(shape)
        except (KeyError, TypeError, ValueError):
            possible = False
        if not possible:
            raise CheckpointError(
                f"{path}: the header describes {shown(name)} by {shown(entry)}, not by a type, shape and range of "
                "as many bytes. Download it again."
            )
        spans.append((begin, end, name))
        tensors[name] = (dtype, shape, start + begin)
    _check_tiling(path, sorted(spans), len(memory) - start)
    return {name: tensor_at(memory, begin, dtype, shape) for name, (dtype, shape, begin) in tensors.items()}


def _read_header(path: Path, memory: mmap) -> tuple[dict[str, Any], int]:
    size, length = len(memory), int.from_bytes(memory[:8], "little")
    limit = min(_HEADER_LIMIT, max(_HEADER_ALLOWANCE, size // _HEADER_SHARE))
    if length > min(limit, size - 8):
        raise CheckpointError(
            f"{path} is not a whole safetensors file: it announces a header of {length:,} bytes and has {size:,} "
            f"bytes in all; at most {limit:,} are read. Download it again."
        )
    header = parse_json(memory[8 : 8 + length], f"The header of {path}", CheckpointError)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a safetensors header that is not a JSON object. Download it again.")
    header.pop("__metadata__", None)
    return header, 8 + length


def _check_tiling(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    """Refuse tensors that do not tile the data exactly."""
    expected = 0
    for begin, end, name in spans:
        if begin != expected:
            raise CheckpointError(
                f"{path}: {shown(name)} begins at byte {begin} where byte {expected} is due. Download it again."
            )
        expected = end
    if expected != available:
        raise CheckpointError(
            f"{path} is {'truncated' if expected > available else 'too long'}: the header describes {expected} bytes "
            f"of tensors and {available} are there. Download it again."
        )
