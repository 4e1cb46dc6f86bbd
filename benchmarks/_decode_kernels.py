"""The products of a GLM-10b step, one by one: time and bandwidth of every tiling, beside torch's product."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.ops import (
    Tiling,
    decode_attention,
    linear_act_residual,
    new_counters,
    qkv_to_cache,
)
from flagai.model.layer.paged_attention import SlotTable
from tests.kernels import plain_products

# name: (outputs, inputs, with norm, activation, with residual)
SHAPES: dict[str, tuple[int, int, bool, str | None, bool]] = {
    "out": (4096, 4096, False, None, True),
    "up": (16384, 4096, True, "gelu_new", False),
    "down": (4096, 16384, False, None, True),
}
KernelConfig = Callable[[nn.Linear], torch.Tensor]
# For one token: numbers of a program, warps. For several: rows, columns, warps, stages.
_WHOLE = ((8192, 4), (16384, 4), (32768, 8), (32768, 16))
_TILED = ((32, 128, 4, 6), (16, 256, 4, 5), (64, 128, 4, 5), (32, 256, 8, 4))
_BYTES = 2 << 30  # of different matrices, so that no cache serves them


def replayed(work: Callable[[], None], rounds: int = 7) -> float:
    """Median seconds of a CUDA graph of the work."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
    graph.replay()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _layers(outputs: int, inputs: int) -> list[nn.Linear]:
    count = max(2, _BYTES // (2 * outputs * inputs))
    layers = [nn.Linear(inputs, outputs, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
    for layer in layers:
        layer.requires_grad_(False)
    return layers


@torch.inference_mode()
def table(rows: tuple[int, ...], tune: bool) -> list[dict[str, Any]]:
    """One entry for each product, number of rows and way of computing it."""
    found = []
    for name, (outputs, inputs, normed, activation, residual) in SHAPES.items():
        layers = _layers(outputs, inputs)
        for count in rows:
            given: dict[str, Any] = {
                "norm": nn.LayerNorm(inputs, device="cuda", dtype=torch.bfloat16) if normed else None,
                "activation_name": activation,
                "residual": torch.randn(count, outputs, device="cuda", dtype=torch.bfloat16) if residual else None,
            }
            tokens = torch.randn(count, inputs, device="cuda", dtype=torch.bfloat16)
            ways = _ways(tokens, given) | (_tilings(tokens, given, outputs) if tune else {})
            found += [_entry(name, count, way, layers, compute) for way, compute in ways.items()]
        del layers
        torch.cuda.empty_cache()
    return found


def _ways(tokens: torch.Tensor, given: dict[str, Any]) -> dict[str, KernelConfig]:
    return {
        "cublas": lambda layer: F.linear(tokens, layer.weight, layer.bias),
        "torch, all of it": lambda layer: plain_products.linear_act_residual(tokens, layer, **given),
        "ours": lambda layer: linear_act_residual(tokens, layer, **given),
        "ours, without PDL": lambda layer: linear_act_residual(tokens, layer, **given, pdl=False),
    }


def _tilings(tokens: torch.Tensor, given: dict[str, Any], outputs: int) -> dict[str, KernelConfig]:
    count, inputs = tokens.shape
    if count == 1:
        tilings = [Tiling(max(1, size // inputs), inputs, warps) for size, warps in _WHOLE]
    else:
        tilings = [Tiling(*numbers) for numbers in _TILED]
    return {f"ours, {tiling}": partial(_tiled, tokens, given, tiling) for tiling in tilings}


def _tiled(tokens: torch.Tensor, given: dict[str, Any], tiling: Tiling, layer: nn.Linear) -> torch.Tensor:
    return linear_act_residual(tokens, layer, **given, tiling=tiling)


def _entry(name: str, rows: int, way: str, layers: list[nn.Linear], compute: Callable[..., Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"product": name, "rows": rows, "way": way}
    try:
        seconds = replayed(lambda: [compute(layer) for layer in layers] and None) / len(layers)
    except Exception as error:  # noqa: BLE001 - one failure must not end the run
        return entry | {"error": repr(error)[:300]}
    return entry | {"us": round(1e6 * seconds, 2), "TB/s": round(layers[0].weight.nbytes / seconds / 1e12, 3)}


def paged_slots(lanes: int, past: int, heads: int, width: int) -> tuple[Slots, SlotTable]:
    """Random keys and values, and a table of lanes that share a past; engines have tables of 1,024 slots."""
    pools = torch.randn(2, past + lanes + 1, heads, width, device="cuda", dtype=torch.bfloat16)
    own = torch.arange(past + 1, past + lanes + 1, device="cuda")
    slots = torch.zeros(lanes, max(1024, past + 1), dtype=torch.int32, device="cuda")
    slots[:, :past] = torch.randperm(past, device="cuda") + 1
    slots[:, past] = own
    return Slots(*pools, own), SlotTable(slots, torch.full((lanes,), past + 1, dtype=torch.int32, device="cuda"))


@torch.inference_mode()
def attention_table() -> list[dict[str, Any]]:
    """Projection and attention of one layer for several lengths of the past."""
    layers = list(zip(*(_layers(4096, 4096) for _ in range(3)), strict=True))[:16]
    return [_attention(layers, *sizes) for sizes in ((1, 64), (1, 500), (4, 500), (1, 1500))]


def _attention(layers: list[Any], lanes: int, past: int) -> dict[str, Any]:
    slots, table = paged_slots(lanes, past, 64, 64)
    tokens, counters = (
        torch.randn(lanes, 4096, device="cuda", dtype=torch.bfloat16),
        new_counters(64, slots.keys.device),
    )
    norm = nn.LayerNorm(4096, device="cuda", dtype=torch.bfloat16)
    attending = (
        replayed(lambda: [decode_attention(tokens, slots, table, None, counters) for _ in range(16)] and None) / 16
    )
    projecting = replayed(lambda: [qkv_to_cache(tokens, norm, *each, slots) for each in layers] and None) / len(layers)
    return {
        "lanes": lanes,
        "past": past,
        "attention us": round(1e6 * attending, 2),
        "projection us": round(1e6 * projecting, 2),
        "projection TB/s": round(3 * 2 * 4096 * 4096 / projecting / 1e12, 3),
    }
