"""Ask the kernel for memory: map a file's pages ahead of their use, use huge pages, populate pages at once.

Everything here is an improvement, never a need: where a system lacks a call, nothing happens and all still works.
"""

import ctypes
import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EFAULT
from functools import cache

import torch

from flagai.checkpoint.mapped_files import ByteRange, anonymous, byte_range
from flagai.errors import CheckpointError
from flagai.system import LINUX, memory_bytes

# From <linux/mman.h>; Python's mmap has no name for it. Kernels before 5.14 answer EINVAL, and pages are mapped by use.
_POPULATE_READ = 22
_POPULATE_WRITE = 23
# How much is asked for at once: long enough to cost few calls, short enough to stop soon if the load fails.
_STEP = 32 << 20
# Below this, the allocator's own memory is as good.
_OWN_FROM = 4 << 20


def _page_ranges(tensors: Iterable[torch.Tensor]) -> list[ByteRange]:
    """The address ranges that tensors lie in, in whole pages, joined and in order."""
    page = mmap.PAGESIZE
    ranges: list[ByteRange] = []
    for begin, end in sorted(byte_range(tensor) for tensor in tensors if tensor.numel()):
        first, last = begin // page * page, -(-end // page) * page
        if ranges and first <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


@contextmanager
def mapped_ahead(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Read and map the pages of file-backed tensors in the background; at the end of the body all are there.

    The page tables of a model take as long to fill as the model takes to build, and another core is idle meanwhile.
    Measured for 438 MB in the page cache: 17 ms of one core, whether by page faults (which map 16 pages at a time
    around the one that is touched) or by MADV_POPULATE_READ; several threads gain nothing, and huge pages are not
    given for files on ext4. MAP_POPULATE copies all pages of a private writable mapping: 170 ms and the model's size
    in memory.

    Raises:
        CheckpointError: a file was cut short or cannot be read, which its first use would make fatal.
    """
    todo = _page_ranges(tensors)
    # A model larger than this would push itself out of the page cache again.
    if not LINUX or not todo or sum(end - begin for begin, end in todo) > memory_bytes() // 2:
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
        raise CheckpointError("A weights file was cut short, or its disk fails, while it was read. Download it again.")


def _map_pages(todo: Sequence[ByteRange], stop: threading.Event, failed: threading.Event) -> None:
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
    failed = _library().madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice))
    return ctypes.get_errno() if failed else 0


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def empty_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Memory on the CPU for a copy of ``tensor`` in another type, with the same shape and order of dimensions.

    A large tensor has a mapping of its own, so that it can be freed alone, and begins where a page does.
    """
    plan = torch.empty_like(tensor, dtype=dtype, device="meta")
    if plan.nbytes < _OWN_FROM or not LINUX:
        return torch.empty_like(tensor, dtype=dtype, device="cpu")
    return torch.frombuffer(anonymous(plan.nbytes), dtype=dtype, count=plan.numel()).as_strided(
        plan.shape, plan.stride()
    )


def huge_memory(size: int) -> mmap.mmap:
    """Zeroed memory that lies in huge pages where the system has them, and is freed with its last user."""
    memory = anonymous(size)  # private: shared memory has other rules for huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without transparent huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def populate(memory: mmap.mmap) -> None:
    """Ask for all pages of some memory at once, so that pinning it need not wait for them.

    Sixteen threads that pin 16 MB each take 15 ms with this, and 55 to 85 without: the driver touches pages one by
    one, under a lock (two processes at once on one host with H100s).
    """
    if LINUX:
        _madvise(ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory), _POPULATE_WRITE)
