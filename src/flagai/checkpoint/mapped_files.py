"""Weights files as memory: map them, find tensors in them, and the file that an address belongs to."""

import bisect
import math
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from flagai.system import WINDOWS

# The first address, and the one behind the last.
ByteRange = tuple[int, int]


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
        memory = anonymous(size)
        file.seek(0)
        view, done = memoryview(memory), 0
        while count := file.readinto(view[done:]):
            done += count
        view.release()
    if done < size:
        raise OSError(f"{path} ended at byte {done:,} of {size:,} while it was read")
    return memory


def anonymous(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone, where the system has such; other memory is slower to come by."""
    return mmap.mmap(-1, size, access=mmap.ACCESS_WRITE if WINDOWS else mmap.ACCESS_COPY)


def tensor_at(memory: mmap.mmap, begin: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """A contiguous tensor whose values begin at a byte of some memory, where the caller knows that they are.

    It is a view where its values are aligned.
    """
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    if begin % dtype.itemsize:  # kernels expect aligned elements
        raw = torch.frombuffer(bytearray(memory[begin : begin + count * dtype.itemsize]), dtype=torch.uint8)
        return raw.view(dtype).view(shape)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=begin).view(shape)


def byte_range(tensor: torch.Tensor) -> ByteRange:
    """The addresses of a tensor's first byte and of the byte behind its last one, gaps between rows included."""
    if tensor.is_contiguous():
        return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + reach * tensor.itemsize


class FileMap:
    """Tells which file a mapped address belongs to, as the kernel has it at this moment.

    Attributes:
        inodes: of the files that were found.
    """

    def __init__(self) -> None:
        self._mappings: list[tuple[int, int, int, int, str]] = []
        self._files: dict[tuple[str, int], Path | None] = {}  # those asked for
        self.inodes: dict[Path, int] = {}
        with suppress(OSError):
            for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                fields = line.split(maxsplit=5)  # addresses, rights, offset, device, inode, path
                if len(fields) == 6 and fields[4] != "0":
                    begin, end = (int(address, 16) for address in fields[0].split("-"))
                    self._mappings.append((begin, end, int(fields[2], 16), int(fields[4]), fields[5]))

    def find(self, tensor: torch.Tensor) -> tuple[Path, int] | None:
        """The file and the offset of a tensor's first byte, if all of it lies in one that still has this path."""
        begin, end = byte_range(tensor)
        index = bisect.bisect_right(self._mappings, (begin, math.inf)) - 1
        if index < 0:
            return None
        first, last, offset, inode, name = self._mappings[index]
        file = self._file(name, inode) if end <= last else None
        return None if file is None else (file, offset + begin - first)

    def _file(self, name: str, inode: int) -> Path | None:
        if (name, inode) not in self._files:
            self._files[name, inode] = None
            with suppress(OSError, ValueError):
                if os.stat(name).st_ino == inode:
                    self._files[name, inode] = Path(name)
                    self.inodes[Path(name)] = inode
        return self._files[name, inode]
