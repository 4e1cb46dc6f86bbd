"""A weights file as memory: mapped, or read as a whole."""

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import torch


def map_file(path: Path, *, mapped: bool = True) -> mmap.mmap:
    """The bytes of a file that is not empty, as private memory: writing to it never touches the file.

    Args:
        path: the file.
        mapped: map the file copy-on-write, so that nothing is read before it is used, and processes share the page
            cache; otherwise its bytes are read at once, and whatever happens to the file later does not matter.

    Raises:
        OSError: it cannot be opened or read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if mapped:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
        file.seek(0)
        view, done = memoryview(memory), 0
        while count := file.readinto(view[done:]):
            done += count
        view.release()
    if done < size:
        raise OSError(f"{path} ended at byte {done:,} of {size:,} while it was read")
    return memory


def tensor_at(memory: mmap.mmap, begin: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """A contiguous tensor whose values begin at a byte of some memory; a view, where its values are aligned there.

    Args:
        memory: from :func:`map_file`.
        begin: the first byte.
        dtype: the dtype.
        shape: the extents; the caller has checked that so many values are there.
    """
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    if begin % dtype.itemsize:  # kernels expect aligned elements
        raw = torch.frombuffer(bytearray(memory[begin : begin + count * dtype.itemsize]), dtype=torch.uint8)
        return raw.view(dtype).view(shape)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=begin).view(shape)
