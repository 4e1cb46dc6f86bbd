"""Casting on the CPU: values of every pair of types, and memory that comes in pages of the cheaper size."""

import ctypes
import itertools
import mmap
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from flagai.checkpoint.stream import cast as casting
from flagai.checkpoint.stream import memory as pages
from flagai.checkpoint.stream.cast import cast
from flagai.checkpoint.stream.memory import Supply, empty_like, extent
from flagai.checkpoint.stream.plan import Move

MEGABYTE = 1 << 20
HALVES = [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


@pytest.mark.parametrize(("given", "wanted"), HALVES)
def test_every_value_of_a_half_type_is_cast_as_torch_does(given: torch.dtype, wanted: torch.dtype) -> None:
    source = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(given).repeat(9)
    target = torch.empty(source.shape, dtype=wanted)
    cast([Move(source, target)])
    expected = source.to(wanted)
    assert torch.equal(target.isnan(), expected.isnan())
    assert torch.equal(target.nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize(("given", "wanted"), HALVES)
def test_windows_and_rows_longer_than_the_buffer(
    given: torch.dtype, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casting, "_BETWEEN", 1000)
    matrix = torch.randn(30, 1500).to(given)
    for view in (matrix, matrix.T, matrix[:, 500:1000], matrix[:, 500:1000].T, matrix[3:4, 100:1400]):
        target = empty_like(view, wanted)
        cast([Move(view, target)])
        assert torch.equal(target, view.to(wanted))


def test_the_number_of_threads_is_left_alone() -> None:
    torch.set_num_threads(2)
    try:
        cast([Move(torch.randn(99_999), torch.empty(99_999, dtype=torch.float16))])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.fixture
def memory() -> Iterator[int]:
    """The address of 16 MB of the process' own."""
    mapping = mmap.mmap(-1, 16 * MEGABYTE, access=mmap.ACCESS_COPY)
    first = ctypes.c_char.from_buffer(mapping)
    yield ctypes.addressof(first)
    del first
    mapping.close()


class Kernel:
    """Notes what is asked for; huge pages become dear after a while."""

    def __init__(self, cheap: int) -> None:
        self.cheap = cheap
        self.now = 0.0
        self.asked: list[tuple[int, int, bool]] = []
        self._advised: set[int] = set()

    def madvise(self, address: int, length: int, advice: int) -> int:
        if advice == mmap.MADV_HUGEPAGE:
            self._advised.add(address)
            return 0
        huge = address in self._advised
        self.asked.append((address, length, huge))
        self.now += length * (100 if huge and sum(kind for *_, kind in self.asked) > self.cheap else 1)
        return 0


def asked(monkeypatch: pytest.MonkeyPatch, kernel: Kernel, span: tuple[int, int], step: int) -> list[bool]:
    """Provide a tensor's memory step by step; which sizes of pages were asked for."""
    monkeypatch.setattr(pages, "_madvise", kernel.madvise)
    monkeypatch.setattr(time, "thread_time", lambda: kernel.now)
    supply = Supply()
    for begin in range(span[0], span[1], step):
        supply.provide((begin, min(begin + step, span[1])), span)
    covered = sorted((address, address + length) for address, length, _ in kernel.asked)
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(covered))
    assert covered[0][0] == span[0] // mmap.PAGESIZE * mmap.PAGESIZE
    assert covered[-1][1] == -(-span[1] // mmap.PAGESIZE) * mmap.PAGESIZE
    return [huge for *_, huge in kernel.asked]


@linux
def test_huge_pages_are_used_until_one_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    span = (1 << 40, (1 << 40) + 64 * MEGABYTE)
    assert asked(monkeypatch, Kernel(cheap=99), span, 4 * MEGABYTE) == [False] + 15 * [True]
    assert asked(monkeypatch, Kernel(cheap=3), span, 4 * MEGABYTE) == [False] + 4 * [True] + 11 * [False]


@linux
def test_pieces_meet_at_the_borders_of_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(cheap=99)
    span = ((1 << 40) + 300_000, (1 << 40) + 21 * MEGABYTE + 777)
    asked(monkeypatch, kernel, span, 5 * MEGABYTE)
    assert all(address % (2 * MEGABYTE) == 0 for address, *_ in kernel.asked[1:])


@linux
def test_memory_is_there_and_what_it_held_stays(memory: int) -> None:
    area = (ctypes.c_char * (16 * MEGABYTE)).from_address(memory)
    area[5 * MEGABYTE] = b"x"
    tensor = torch.frombuffer(area, dtype=torch.uint8)
    supply = Supply()
    for part in tensor.split(3 * MEGABYTE):
        supply.provide(extent(part), extent(tensor))
    assert int(tensor[5 * MEGABYTE]) == ord("x")
    assert int(tensor.sum(dtype=torch.long)) == ord("x")
    resident = bytes_resident(memory)
    assert resident >= 16 * MEGABYTE


def bytes_resident(address: int) -> int:
    """The resident bytes of the mapping that an address lies in."""
    found, inside = 0, False
    with open("/proc/self/smaps", encoding="ascii") as lines:
        for line in lines:
            field = line.split()[0]
            if "-" in field and not field.endswith(":"):
                begin, end = (int(border, 16) for border in field.split("-"))
                inside = begin < address + 16 * MEGABYTE and address < end
            elif field == "Rss:" and inside:
                found += 1024 * int(line.split()[1])
    return found
