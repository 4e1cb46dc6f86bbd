"""Paged attention on a CPU: which keys are read where they lie, and blocks of a step over a pool."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flagai.model.block.stack import cached_blocks
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.paged_attention import SlotTable, paged_attention
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask
from tests import tiny

KERNEL = "cpu.paged_attention.paged_attention_cpu"
BLOCKS = "cpu.decode_block.cpu_blocks"
SLOTS = 4000
Rows = list[Sequence[int]]


def beams(start: int, prompt: int = 20, lanes: int = 4, steps: int = 9) -> Rows:
    """Beams of one text: step after step, each beam's past changes between the slots of all lanes."""
    own = start + prompt
    past = [[own + step * lanes + (lane * 7 + step * 3) % lanes for step in range(steps)] for lane in range(lanes)]
    return [[*range(start, own), *slots] for slots in past]


def lanes_apart(start: int, prompt: int, lanes: int, steps: int, room: int) -> Rows:
    """Samples of one text that have a stretch each."""
    own = [start + prompt + lane * room for lane in range(lanes)]
    return [[*range(start, start + prompt), *range(begin, begin + steps)] for begin in own]


def mixed() -> Rows:
    """Texts with one row and several, of different lengths, with gaps, and rows without keys."""
    single = [range(50, 90), [], range(100, 101), [*range(120, 130), *range(140, 150)]]
    return [*single, *beams(200), [], [], *beams(300, 31, 3, 11), range(900, 1500), *lanes_apart(1600, 5, 2, 3, 700)]


# How rows lie; how often attention is called for them; whether keys are gathered.
LAYOUTS: dict[str, tuple[Rows, int, bool]] = {
    "one text": ([range(7, 90)], 1, False),
    "one text with a gap": ([[*range(7, 30), *range(32, 60)]], 1, False),
    "one text in another order": ([[*range(30, 60), *range(7, 30)]], 1, False),
    "beams": (beams(33), 1, False),
    "a draft": ([range(16, 40 + more) for more in range(4)], 1, False),
    "samples without a prompt": ([range(16 + lane, 80, 4) for lane in range(4)], 1, False),
    "equal distances": ([range(begin, begin + 30 + begin % 3) for begin in range(16, 400, 50)], 1, False),
    "equal distances of beams": ([row for begin in range(16, 400, 80) for row in beams(begin)], 1, False),
    "other distances": ([range(begin, begin + 30) for begin in (16, 100, 150, 900)], 2, False),
    "the end of the pool": ([range(SLOTS - 100, SLOTS - 40), range(SLOTS - 20, SLOTS)], 2, False),
    "slots far apart": ([range(5, 3900, 97), range(6, 3900, 97)], 1, True),
    "samples far apart": (lanes_apart(40, 3, 2, 4, 1900), 1, True),
    "encoder": ([range(64, 99)] * 3, 1, False),
    "rows without keys": ([[], range(20, 40), []], 1, False),
    "no keys at all": ([[], []], 0, False),
    "a mixture": (mixed(), 6, True),
}


def table_of(rows: Rows) -> SlotTable:
    """A table whose rows are filled up with any slots."""
    slots = torch.randint(0, SLOTS, (len(rows), max(map(len, rows)) + 3), dtype=torch.int32)
    for row, each in zip(slots, rows, strict=True):
        row[: len(each)] = torch.tensor(list(each))
    return SlotTable(slots, torch.tensor([len(row) for row in rows], dtype=torch.int32))


def tensors(rows: int, heads: int, shared: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Queries that are cut from a wider product, and a pool."""
    shapes = ((rows, 3 * heads, 16), (SLOTS, shared, 16), (SLOTS, shared, 16))
    query, keys, values = (torch.randn(shape).to(dtype) for shape in shapes)
    return [query[:, heads : 2 * heads], keys, values]


class Recorded(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("distances", [0, 12], ids=["no bias", "bias"])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (6, 2)], ids=["own keys", "shared keys"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_plain(layout: str, dtype: torch.dtype, heads: int, shared: int, distances: int) -> None:
    torch.manual_seed(0)
    rows, _, _ = LAYOUTS[layout]
    args, table = tensors(len(rows), heads, shared, dtype), table_of(rows)
    bias = torch.randn(heads, distances) if distances else None
    with torch.inference_mode():
        with only_kernels(KERNEL):
            assert paged_attention.choose(*args, table, bias=bias) is not paged_attention.plain
            found = [paged_attention(*args, table, bias=bias, scale=0.3) for _ in range(2)]
        wanted = paged_attention.plain(*args, table, bias=bias, scale=0.3)
    tolerance = 2e-5 if dtype is torch.float32 else 4e-2
    for each in found:
        torch.testing.assert_close(each, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_are_copied_only_where_they_lie_far_apart(layout: str) -> None:
    rows, calls, gathers = LAYOUTS[layout]
    args, table = tensors(len(rows), 2, 2), table_of(rows)
    with torch.inference_mode(), only_kernels(KERNEL), Recorded() as recorded:
        paged_attention(*args, table)
    taken = sum("index_select" in name for name in recorded.names) - any(not len(row) for row in rows)
    assert (taken > 0) == gathers
    assert sum("scaled_dot_product" in name for name in recorded.names) == calls


def test_gathers_few_rows_at_a_time() -> None:
    torch.manual_seed(0)
    rows: Rows = [torch.randperm(3000)[:50].tolist() for _ in range(40)]
    args, table = tensors(40, 32, 32), table_of(rows)
    with torch.inference_mode(), only_kernels(KERNEL), Recorded() as recorded:
        found = paged_attention(*args, table)
    torch.testing.assert_close(found, paged_attention.plain(*args, table))
    assert sum("scaled_dot_product" in name for name in recorded.names) == 4


def test_a_table_that_is_written_anew_counts() -> None:
    args, table = tensors(2, 2, 2), table_of([range(9, 20), range(30, 50)])
    with torch.inference_mode(), only_kernels(KERNEL):
        before = paged_attention(*args, table)
        table.slots[0, 3] = 700
        torch.testing.assert_close(paged_attention(*args, table), paged_attention.plain(*args, table))
        table.lengths[1] = 5
        after = paged_attention(*args, table)
        torch.testing.assert_close(after, paged_attention.plain(*args, table))
    assert not torch.allclose(before, after)


def test_leaves_the_rest_to_plain_torch() -> None:
    args, table = tensors(1, 2, 2), table_of([range(9, 20)])
    twice = table_of([[9, 10, 10, 11]])
    with only_kernels(KERNEL):
        assert paged_attention.choose(*args, table) is paged_attention.plain  # with gradients
        with torch.no_grad():
            assert paged_attention.choose(*args, table) is not paged_attention.plain
            assert paged_attention.choose(*args, twice) is paged_attention.plain
            captured = SlotTable(table.slots, table.lengths, static=True)
            assert paged_attention.choose(*args, captured) is paged_attention.plain
            doubles = [each.double() for each in args]
            assert paged_attention.choose(*doubles, table) is paged_attention.plain


@pytest.mark.parametrize("rows", [[range(1, 9)], beams(20), [[], *beams(20), range(200, 230)]])
@pytest.mark.parametrize("name", ["GPT2Model", "GLMModel"])
def test_blocks_over_a_pool(name: str, rows: Rows) -> None:
    if not torch.backends.mkl.is_available():
        pytest.skip("needs MKL")
    torch.manual_seed(0)
    changes = {"spell_length": None} if name == "GLMModel" else {}
    blocks = tiny.build(name, **changes).blocks
    width = blocks[0].norm1.normalized_shape[0]
    size = blocks[0].attention.head_dim
    hidden, table = torch.randn(1, len(rows), width), table_of(rows)
    own = torch.tensor([row[-1] if row else 0 for row in rows])
    pools = [torch.randn(2, SLOTS, width // size, size) for _ in blocks]
    found = []
    for kernels in ((BLOCKS, KERNEL), ()):
        pool = PagedCache(len(blocks), SLOTS)
        for index, pair in enumerate(pools):
            pool.write(index, torch.arange(SLOTS), *pair)
        for _ in range(2):  # a pool has many steps
            mask = AttentionMask(table=table)
            with torch.inference_mode(), only_kernels(*kernels):
                args = (blocks, hidden, mask, PagedStep(pool, own, mask))
                assert (cached_blocks.choose(*args) is cached_blocks.plain) == (not kernels)
                output = cached_blocks(*args)
        found.append([output, *(each[1:] for each in (*pool.keys, *pool.values) if each is not None)])
    torch.testing.assert_close(*found, atol=5e-5, rtol=5e-5)
