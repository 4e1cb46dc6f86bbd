"""What the kernel does with memory on request: map a file's pages at once, use huge pages, say which file lies where.

Everything here is an improvement, never a need: where a system lacks a call, nothing happens and all still works.
"""

import bisect
import ctypes
import math
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EFAULT
from functools import cache
from pathlib import Path

import torch

from flagai.errors import CheckpointError

_LINUX = sys.platform.startswith("linux")
# From <linux/mman.h>; Python's mmap has no name for it. Kernels before 5.14 answer EINVAL, and pages are mapped by use.
_POPULATE_READ = 22
_POPULATE_WRITE = 23
# How much is asked for at once: long enough to cost few calls, short enough to stop soon if the load fails.
_STEP = 32 << 20
_HUGE_PAGE = 2 << 20
# Below this, the allocator's own memory is as good.
_OWN_FROM = 4 << 20
# Page by page is as good for less.
_WORTH_ASKING = 64 << 10
# How much longer than small pages huge ones may take: they spare the processor's tables later.
_TOO_DEAR = 1.5
Span = tuple[int, int]


def spans(tensors: Iterable[torch.Tensor]) -> list[Span]:
    """The address ranges that tensors lie in, in whole pages, joined and in order."""
    page = mmap.PAGESIZE
    found: list[Span] = []
    for begin, end in sorted(extent(tensor) for tensor in tensors if tensor.numel()):
        first, last = begin // page * page, -(-end // page) * page
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def extent(tensor: torch.Tensor) -> Span:
    """The addresses of a tensor's first byte and of the byte behind its last one, gaps between rows included."""
    if tensor.is_contiguous():
        return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + reach * tensor.itemsize


@contextmanager
def mapped_ahead(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Read and map the pages of file-backed tensors in the background; at the end of the body all are there.

    The page tables of a model take as long to fill as the model takes to build, and another core is idle meanwhile.
    Measured for 438 MB in the page cache: 17 ms of one core, whether by page faults (which map 16 pages at a time
    around the one that is touched) or by MADV_POPULATE_READ; several threads gain nothing, and huge pages are not
    given for files on ext4. MAP_POPULATE copies all pages of a private writable mapping: 170 ms and the model's size
    in memory.

    Args:
        tensors: views of mapped files.

    Raises:
        CheckpointError: a file was cut short or cannot be read, which its first use would make fatal.
    """
    todo = spans(tensors)
    # A model larger than this would push itself out of the page cache again.
    if not _LINUX or not todo or sum(end - begin for begin, end in todo) > _memory() // 2:
        yield
        return
    stop, failed = threading.Event(), threading.Event()
    thread = threading.Thread(target=_map_pages, args=(todo, stop, failed), name="flagai-map", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        thread.join()
    if failed.is_set():
        raise CheckpointError("A weights file was cut short, or its disk fails, while it was read. Fetch it again.")


def _map_pages(todo: Sequence[Span], stop: threading.Event, failed: threading.Event) -> None:
    """Ask for step after step; the disk is told of the next one before the present one is waited for."""
    steps = [(begin, min(begin + _STEP, last)) for first, last in todo for begin in range(first, last, _STEP)]
    for (begin, end), (ahead, ahead_end) in zip(steps, [*steps[1:], (0, 0)], strict=True):
        if stop.is_set():
            return
        if ahead:
            _madvise(ahead, ahead_end - ahead, mmap.MADV_WILLNEED)
        if _madvise(begin, end - begin, _POPULATE_READ) == EFAULT:
            failed.set()
            return


def _madvise(address: int, length: int, advice: int) -> int:
    """Call madvise, other threads running meanwhile (Python's own method holds them up); the error number or 0."""
    if _library().madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice)):
        return ctypes.get_errno()
    return 0


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def empty_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Memory on the CPU for a copy of ``tensor`` in another type.

    A large tensor has a mapping of its own, so that it can be freed alone, and begins where a page does.

    Args:
        tensor: gives shape and order of dimensions.
        dtype: the type of the copy.
    """
    plan = torch.empty_like(tensor, dtype=dtype, device="meta")
    if plan.nbytes < _OWN_FROM or not _LINUX:
        return torch.empty_like(tensor, dtype=dtype, device="cpu")
    memory = mmap.mmap(-1, plan.nbytes, access=mmap.ACCESS_COPY)  # private: shared memory is slower to come by
    return torch.frombuffer(memory, dtype=dtype, count=plan.numel()).as_strided(plan.shape, plan.stride())


def huge_memory(size: int) -> mmap.mmap:
    """Zeroed memory that lies in huge pages where the system has them, and is freed with its last user."""
    memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)  # private: shared memory has other rules for huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without transparent huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def get_pages(memory: mmap.mmap) -> None:
    """Ask for all pages of some memory at once; pinning it then finds them there.

    Sixteen threads that pin 16 MB each take 15 ms with this, and 55 to 85 without: the driver touches pages one by
    one, under a lock (two processes at once on one host with H100s).
    """
    if _LINUX:
        _madvise(ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory), _POPULATE_WRITE)


class Supply:
    """Gets memory from the kernel before it is written, in huge pages unless they prove dear on this machine.

    One call for megabytes spares a third of what page faults cost, one by one. With huge pages (2 MB) the kernel has
    512 times fewer to find, which is best where the memory is the machine's own. But the host of a virtual machine may
    take back free memory in blocks of that size: then a huge page waits for the host, for 5 ms instead of 0.2, while
    small pages come from what was used a moment ago (5 GB of casts: 16 s of the system's time and 3 s). A few cheap
    ones at first mean nothing, so each is watched: the first that is too dear is the last.
    """

    def __init__(self) -> None:
        self._small: float | None = None  # seconds a byte
        self._dear = False

    def provide(self, span: Span, whole: Span) -> None:
        """See that a range of addresses has memory that may be written.

        Args:
            span: the range.
            whole: the tensor that it belongs to. Ranges that follow each other meet at the border of a huge page, so
                one asks for a little more than it needs, and the next for less.
        """
        if not _LINUX or whole[1] - whole[0] < _WORTH_ASKING:
            return
        begin, end = (_next_border(address, whole) for address in span)
        if begin >= end:  # the piece before has asked for all that is left
            return
        counts = end - begin >= _HUGE_PAGE
        huge = counts and self._small is not None and not self._dear
        if huge:
            _madvise(begin, end - begin, mmap.MADV_HUGEPAGE)
        start = time.thread_time()
        _madvise(begin, end - begin, _POPULATE_WRITE)
        if counts:
            self._note((time.thread_time() - start) / (end - begin), huge=huge)

    def _note(self, seconds: float, *, huge: bool) -> None:
        if not huge:
            self._small = self._small or seconds
        elif self._small is not None and seconds > _TOO_DEAR * self._small:
            self._dear = True


def _next_border(address: int, whole: Span) -> int:
    """The first border of a huge page from an address on, or the whole pages of a tensor's own begin and end."""
    if address == whole[0]:
        return address // mmap.PAGESIZE * mmap.PAGESIZE
    return min(-(-address // _HUGE_PAGE) * _HUGE_PAGE, -(-whole[1] // mmap.PAGESIZE) * mmap.PAGESIZE)


@dataclass(frozen=True)
class Place:
    """Where the bytes of a tensor lie in a file."""

    file: Path
    offset: int


class FileMap:
    """Tells which file a mapped address belongs to, as the kernel has it at this moment.

    The same question for safetensors, which we map, and for ``.bin``, which torch maps without telling where.
    """

    def __init__(self) -> None:
        self._mappings: list[tuple[int, int, int, int, str]] = []
        self._files: dict[tuple[str, int], Path | None] = {}  # those asked for
        self.inodes: dict[Path, int] = {}  # of those found
        with suppress(OSError):
            for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                self._add(line.split(maxsplit=5))

    def _add(self, fields: list[str]) -> None:
        """Note a line of a file: addresses, rights, offset, device, inode, path."""
        if len(fields) == 6 and fields[4] != "0":
            begin, end = (int(address, 16) for address in fields[0].split("-"))
            self._mappings.append((begin, end, int(fields[2], 16), int(fields[4]), fields[5]))

    def find(self, tensor: torch.Tensor) -> Place | None:
        """The place of a tensor's first byte, if all of it lies in one mapped file that still has this path."""
        begin, end = extent(tensor)
        index = bisect.bisect_right(self._mappings, (begin, math.inf)) - 1
        if index < 0:
            return None
        first, last, offset, inode, name = self._mappings[index]
        file = self._file(name, inode) if end <= last else None
        return None if file is None else Place(file, offset + begin - first)

    def _file(self, name: str, inode: int) -> Path | None:
        """The file of a mapping, if it still has this path."""
        if (name, inode) not in self._files:
            self._files[name, inode] = None
            with suppress(OSError, ValueError):
                if os.stat(name).st_ino == inode:
                    self._files[name, inode] = Path(name)
                    self.inodes[Path(name)] = inode
        return self._files[name, inode]
