"""Arguments of paged attention, and of blocks over many tokens of a paged cache; see cases.py."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from flagai.model.layer.adjacent import make_adjacent
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask
from tests import tiny
from tests.kernels.case import HALF, HALVES, Call, Case, list_of
from tests.kernels.conftest import DEVICE

SLOTS = 90
# Tokens, heads, heads of the keys, width of a head, places in the table: few and many programs, sizes that are no
# powers of two, keys that are split among programs, heads that share keys.
SHAPES = [(1, 2, 2, 16, 300), (3, 3, 3, 8, 40), (4, 5, 5, 24, 33), (2, 4, 2, 40, 300), (3, 6, 2, 16, 20)]
if DEVICE == "cuda":
    SHAPES += [(33, 16, 16, 64, 200), (300, 12, 12, 64, 257), (2, 8, 8, 256, 900), (40, 32, 8, 128, 100)]


def table(
    count: int, places: int, device: str, slots: int = SLOTS, *, distinct: bool = False, lanes: int = 1
) -> SlotTable:
    """Random slots; one token has no keys, and one as many as there are places.

    The tokens of a text share some slots, and have about as many keys.
    """
    lengths = torch.randint(0, places + 1, (count,))
    lengths[0], lengths[count // 2] = 0, places
    at = torch.randint(0, slots, (count, places))
    if distinct:
        at = torch.rand(count, slots).argsort()[:, :places]
    if lanes > 1:
        at[:, : places // 2] = at[::lanes, : places // 2].repeat_interleave(lanes, 0)
    return SlotTable(at.to(device, torch.int32), lengths.to(device, torch.int32), lanes=lanes)


def paged_call(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    *,
    distances: int = 0,
    joint: bool = True,
    distinct: bool = False,
    lanes: int = 1,
    change: Callable[[list[torch.Tensor]], object] = lambda _: None,
    **more: float,
) -> Callable[[str], Call]:
    """Queries, a pool and a table; ``joint`` cuts the queries from rows that have more."""
    count, heads, shared, width, places = shape

    def make(device: str) -> Call:
        query = torch.randn(count, 3 if joint else 1, heads, width)
        tensors = [query, torch.randn(SLOTS, shared, width), torch.randn(SLOTS, shared, width)]
        tensors = [tensor.to(device, dtype) for tensor in tensors]
        bias = torch.randn(distances, heads).to(device, dtype).t() if distances else None
        tensors[0] = tensors[0][:, 0]
        change(tensors)
        slots = table(count, places, device, distinct=distinct, lanes=lanes)
        return Call((*tensors, slots), {"bias": bias, **more}, list_of)

    return make


def paged_attention_cases() -> Iterator[Case]:
    """All dtypes, with and without a bias by distance; what the kernels do not take."""
    kernel = "paged.attention.paged_attention_triton"
    for dtype, shape, distances in product([torch.float32, *HALVES], SHAPES, (0, 7)):
        call = paged_call(shape, dtype, distances=distances, joint=distances == 0)
        yield Case(kernel, f"{dtype}, {shape}, {distances} distances", call, dtype=dtype)
    on_cpu = "cpu.paged_attention.paged_attention_cpu"
    for dtype, shape, distances in product((torch.float32, torch.bfloat16), SHAPES[1:5:2], (0, 7)):
        shape = (*shape[:4], 40)
        call = paged_call(shape, dtype, distances=distances, distinct=True)
        yield Case(on_cpu, f"on a CPU, {dtype}, {shape}, {distances} distances", call, "cpu", dtype)
    twice = paged_call(SHAPES[1], torch.float32)
    yield Case("plain", "slots that occur twice, on a CPU", twice, "cpu")
    for lanes, shape, distances in ((4, (8, 2, 2, 16, 70), 7), (6, (6, 4, 2, 8, 300), 0)):
        call = paged_call(shape, torch.float32, distances=distances, lanes=lanes)
        yield Case(kernel, f"{lanes} tokens of a text, {shape}", call)
    small = SHAPES[1]
    yield Case(kernel, "a scale", paged_call(small, HALF, scale=0.3), dtype=HALF)
    yield Case("plain", "float64", paged_call(small, torch.float64))
    yield Case("plain", "gradients", paged_call(small, HALF), dtype=HALF, context=torch.enable_grad)
    wide = paged_call((2, 1, 1, 264, 9), HALF)
    yield Case("plain", "a wide head", wide, dtype=HALF)

    def apart(tensors: list[torch.Tensor]) -> None:
        tensors[1] = torch.stack([tensors[1], tensors[1]], 1)[:, 0]

    yield Case("plain", "keys that lie apart", paged_call((3, 3, 3, 8, 40), HALF, change=apart), dtype=HALF)


def blocks_call(
    name: str,
    dtype: torch.dtype,
    *,
    prompts: tuple[int, ...] = (),
    tokens: int = 20,
    adjacent: bool = False,
    hooked: bool = False,
    train: bool = False,
    **changes: Any,
) -> Callable[[str], Call]:
    """What a call of prompts or a step calls :func:`cached_blocks` with; the pool is compared, too."""

    def make(device: str) -> Call:
        blocks = tiny.build(name, **changes).to(device, dtype).blocks.train(train)
        for block in blocks if adjacent else ():
            layers = (block.attention.q, block.attention.k, block.attention.v)
            make_adjacent([layer.weight for layer in layers])
        if hooked:
            blocks[0].norm1.register_forward_hook(lambda *given: given[2] + 1)
        pool, attention = PagedCache(len(blocks), SLOTS), blocks[0].attention
        row = PackedRow(prompts or (1,))
        count = row.total if prompts else tokens
        hidden = torch.randn(1, count, attention.q.in_features).to(device, dtype)
        slots = torch.randperm(SLOTS - 1)[:count] + 1
        if prompts:  # the pool is made by the first write
            mask = AttentionMask(causal=True, packed=row, cu_seqlens=row.cu_seqlens(device))
        else:
            heads = attention.q.out_features // attention.head_dim
            for index in range(len(blocks)):
                filled = torch.randn(2, SLOTS, heads, attention.head_dim).to(device, dtype)
                pool.write(index, torch.arange(SLOTS, device=device), *filled)
            mask = AttentionMask(table=table(count, 30, device))
        step = PagedStep(pool, slots.to(device), mask)
        return Call((blocks, hidden, mask, step), {}, lambda found: [found, *pool.keys, *pool.values])

    return make


def many_rows_cases() -> Iterator[Case]:
    """Prompts and steps of GPT-2 and GLM, with matrices apart and side by side; what is left to others."""
    kernel, glm = "decode.many_rows.many_rows_blocks", {"spell_length": None}
    calls: dict[str, Callable[[str], Call]] = {}
    for dtype, adjacent in product(HALVES, (False, True)):
        about = f"{dtype}, adjacent {adjacent}"
        calls[f"prompts of GPT-2, {about}"] = blocks_call("GPT2Model", dtype, prompts=(5, 9, 1), adjacent=adjacent)
        calls[f"a step of GPT-2, {about}"] = blocks_call("GPT2Model", dtype, adjacent=adjacent)
        calls[f"a step of GLM, {about}"] = blocks_call("GLMModel", dtype, adjacent=adjacent, **glm)
    calls["exact GELU"] = blocks_call("GPT2Model", HALF, activation_function="gelu")
    for about, call in calls.items():
        yield Case(kernel, about, call, dtype=HALF, context=torch.inference_mode)
    yield Case("plain", "many rows, a hook", blocks_call("GPT2Model", HALF, hooked=True), dtype=HALF)
    yield Case("plain", "many rows, float32", blocks_call("GPT2Model", torch.float32))
    yield Case("plain", "many rows, gradients", blocks_call("GPT2Model", HALF), dtype=HALF, context=torch.enable_grad)
    train = blocks_call("GPT2Model", HALF, train=True)
    yield Case("plain", "many rows, in training", train, dtype=HALF, context=torch.inference_mode)
