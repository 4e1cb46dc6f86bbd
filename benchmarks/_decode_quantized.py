"""Kernels with weights of 8 and 4 bits on one GPU: correct, how fast, and with which tiling.

    PYTHONPATH=src:. python benchmarks/_decode_quantized.py [--only check,tune,many,peers,block] [--out FILE]

It chooses nothing by itself: the best tilings are put into ``flagai.kernels.decode.quantized_ops`` by hand. Kernels
are compiled by many processes first; everything is printed as it is found, and what fails is a result.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._check_quantized import CHECKS, check, check_projections
from benchmarks._decode_common import HALF
from benchmarks._decode_kernels import paged_slots, replayed
from benchmarks._decode_small import SHAPES, layer
from benchmarks._measure import copy_bandwidth
from flagai.kernels.decode.ops import decode_attention, new_counters
from flagai.kernels.decode.quantized_ops import (
    TUNED,
    KernelConfig,
    kernel_config,
    quantized_linear_act_residual,
    quantized_qkv_to_cache,
)
from flagai.model.layer.quantized_linear import QuantizedLinear

# Up to so many tokens, whole rows in registers are tried.
_FEW = 4
# (bits, inputs) -> (rows, warps): whole rows in registers.
WORDS: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (4, 4096): ((4, 2), (8, 2), (16, 4), (4, 4), (8, 4)),
    (4, 16384): ((4, 4), (4, 8), (8, 8), (8, 16)),
    (8, 4096): ((4, 4), (8, 4), (8, 8)),
    (8, 16384): ((2, 4), (2, 8), (4, 8)),
}
# inputs -> (rows, words, warps): 4 bits, a product for each group.
GROUPED = {
    4096: ((16, 512, 8), (16, 512, 4), (16, 256, 4)),
    16384: ((16, 512, 8), (16, 256, 8), (16, 256, 4)),
}
# bits -> (rows, columns, warps, stages): tensor cores, dequantized weights.
TILES: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    4: ((16, 64, 4, 4), (32, 64, 4, 3), (32, 64, 4, 4)),
    8: ((16, 128, 4, 6), (16, 256, 4, 5), (32, 128, 4, 5), (32, 256, 4, 4), (64, 128, 4, 4)),
}
_BYTES = 1 << 30
_WORKERS = 14


def ways(bits: int, tokens: int, inputs: int) -> Iterator[KernelConfig]:
    """Every way of computing a product with so many tokens that is tried."""
    if tokens <= _FEW:
        for rows, warps in WORDS[bits, inputs]:
            yield KernelConfig("gemv", rows, inputs * bits // 128, warps)
    if bits == 4:
        for rows, words, warps in GROUPED[inputs]:
            yield KernelConfig("grouped_gemm", rows, words, warps)
    if tokens > 1:
        for numbers in TILES[bits]:
            yield KernelConfig("gemm", *numbers)


@torch.inference_mode()
def _compile(task: tuple[int, int, int, KernelConfig]) -> str | None:
    bits, tokens, inputs, way = task
    try:
        x = torch.randn(tokens, inputs, device="cuda", dtype=HALF)
        quantized_linear_act_residual(x, layer(256, inputs, bits), config=way)
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - it will fail again where it is looked at
        return f"{bits} bits, {tokens} tokens, {inputs} inputs, {way}: {error!r}"[:300]
    return None


def _warm(task: tuple[int, int, str, dict[Any, KernelConfig]]) -> str | None:
    """Compile the kernels of a block."""
    bits, lanes, label, tuned = task
    TUNED.update(tuned)
    found = block(bits, lanes, count=1, only=(label,))
    return next((str(value) for value in found.values() if "rror" in str(value)), None)


def together(work: Callable[[Any], Any], tasks: list[Any]) -> dict[str, Any]:
    """Do tasks with all processors: this fills Triton's cache on the disk."""
    start = time.perf_counter()
    with ProcessPoolExecutor(min(_WORKERS, len(tasks)), mp_context=get_context("spawn")) as pool:
        found = [result for result in pool.map(work, tasks) if result]
    return {"tasks": len(tasks), "seconds": round(time.perf_counter() - start, 1), "found": found}


def compile_all() -> dict[str, Any]:
    tasks = [
        (bits, tokens, inputs, way)
        for tokens in (1, 4)
        for bits in (4, 8)
        for inputs in (16384, 4096)
        for way in ways(bits, tokens, inputs)
    ]
    return together(_compile, tasks)


@torch.inference_mode()
def tune(bits: int, tokens: int) -> dict[str, Any]:
    """Microseconds and bandwidth of each way, best first; the best one is used from here on."""
    found: dict[str, Any] = {}
    for name, (outputs, inputs) in SHAPES.items():
        layers = [layer(outputs, inputs, bits, seed) for seed in range(max(3, _BYTES * 8 // (bits * outputs * inputs)))]
        size = layers[0].weight.nbytes + layers[0].weight_scale.nbytes
        x = torch.randn(tokens, inputs, device="cuda", dtype=HALF)
        entries: list[tuple[float, str, KernelConfig]] = []
        for way in ways(bits, tokens, inputs):
            try:
                seconds = replayed(partial(_each, layers, x, way), rounds=5) / len(layers)
                entries.append((1e6 * seconds, f"{size / seconds / 1e12:.2f} TB/s", way))
            except Exception as error:  # noqa: BLE001 - one failure must not end the run
                entries.append((1e9, repr(error)[:200], way))
        entries.sort(key=lambda entry: entry[0])
        found[name] = [
            f"{us:.2f} us {speed} {way.kind} rows {way.rows} columns {way.columns} warps {way.warps} x{way.stages}"
            for us, speed, way in entries
        ]
        TUNED[bits, 1 if tokens == 1 else 8, outputs, inputs] = entries[0][2]
        print(name, bits, tokens, found[name], flush=True)
        del layers
        torch.cuda.empty_cache()
    return found


def _each(layers: list[QuantizedLinear], x: torch.Tensor, way: KernelConfig) -> None:
    for each in layers:
        quantized_linear_act_residual(x, each, config=way)


@torch.inference_mode()
def peers() -> dict[str, Any]:
    """Torch's own kernels for quantized weights, where they run."""
    found: dict[str, Any] = {}
    for name, (outputs, inputs) in SHAPES.items():
        for tokens in (1, 4):
            x = torch.randn(tokens, inputs, device="cuda", dtype=HALF)
            count = max(3, _BYTES // (outputs * inputs))
            for way, make in (("int4pack", _torch_four), ("int8pack", _torch_eight)):
                try:
                    layers = [make(outputs, inputs) for _ in range(count)]
                    seconds = replayed(lambda x=x, layers=layers: [each(x) for each in layers] and None, 5) / count
                    found[f"{name} {tokens} {way}"] = f"{1e6 * seconds:.2f} us"
                except Exception as error:  # noqa: BLE001
                    found[f"{name} {tokens} {way}"] = repr(error)[:120]
                layers = []
            torch.cuda.empty_cache()
    return found


def _torch_four(outputs: int, inputs: int) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device="cuda")
    tiles = torch._convert_weight_to_int4pack(packed, 8)
    scales = torch.rand(inputs // 128, outputs, 2, device="cuda", dtype=HALF)
    return lambda x: torch._weight_int4pack_mm(x, tiles, 128, scales)


def _torch_eight(outputs: int, inputs: int) -> Callable[[torch.Tensor], torch.Tensor]:
    matrix = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, device="cuda")
    scales = torch.rand(outputs, device="cuda", dtype=HALF)
    return lambda x: torch._weight_int8pack_mm(x, matrix, scales)


@torch.inference_mode()
def block(bits: int, lanes: int, count: int = 16, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Microseconds of a whole block of GLM-10b in a chain, with the tilings that the library takes."""
    square = (4096, 4096)
    sizes = {"q": square, "k": square, "v": square, "out": square, "up": (16384, 4096), "down": (4096, 16384)}
    blocks = [{name: layer(*size, bits, seed) for name, size in sizes.items()} for seed in range(count)]
    norm = nn.LayerNorm(4096, device="cuda", dtype=HALF)
    slots, table = paged_slots(lanes, 100, 64, 64)
    counters = new_counters(64, slots.keys.device)
    tokens = torch.randn(lanes, 4096, device="cuda", dtype=HALF)
    weights = sum(each.weight.nbytes + each.weight_scale.nbytes for each in blocks[0].values())

    def chain(attention: bool = True, pdl: bool = True, norms: bool = True, **changes: Any) -> None:
        def way(made: QuantizedLinear, matrices: int = 1) -> KernelConfig:
            return replace(kernel_config(made, lanes, matrices), **changes)

        hidden, before = tokens, norm if norms else None
        for each in blocks:
            first = (each["q"], each["k"], each["v"])
            query = quantized_qkv_to_cache(hidden, before, first, slots, config=way(each["q"], 3), pdl=pdl)
            attended = decode_attention(query, slots, table, None, counters) if attention else query
            hidden = quantized_linear_act_residual(
                attended, each["out"], residual=hidden, config=way(each["out"]), pdl=pdl
            )
            inner = quantized_linear_act_residual(
                hidden, each["up"], norm=before, activation_name="gelu_new", config=way(each["up"]), pdl=pdl
            )
            hidden = quantized_linear_act_residual(
                inner, each["down"], residual=hidden, config=way(each["down"]), pdl=pdl
            )

    found: dict[str, Any] = {"MB": round(weights / 1e6, 1)}
    for label, options in (
        ("as tuned", {}),
        ("without norms", {"norms": False}),
        ("without PDL", {"pdl": False}),
        ("without attention", {"attention": False}),
    ):
        try:
            if not only or label in only:
                seconds = replayed(partial(chain, **options)) / len(blocks)
                found[label] = f"{1e6 * seconds:06.2f} us, {weights / seconds / 1e12:.2f} TB/s"
        except Exception as error:  # noqa: BLE001
            found[label] = repr(error)[:200]
    return found


def both(work: Callable[..., Any], *given: Any) -> dict[str, Any]:
    return {f"{bits} bits, {given}": work(bits, *given) for bits in (4, 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="compile,tune,many,warm,block,check,peers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    items: dict[str, Callable[[], Any]] = {
        "compile": compile_all,
        "tune": lambda: both(tune, 1),
        "many": lambda: both(tune, 4),
        "warm": lambda: together(
            _warm,
            [
                (bits, lanes, label, TUNED)
                for bits in (4, 8)
                for lanes in (1, 4)
                for label in ("as tuned", "without norms", "without PDL")
            ],
        ),
        "block": lambda: [both(block, lanes) for lanes in (1, 4)],
        "check": lambda: [
            together(check, [(bits, case) for bits in (4, 8) for case in CHECKS[bits]]),
            together(check_projections, [4, 8]),
        ],
        "peers": peers,
    }
    report: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "copy TB/s": round(copy_bandwidth() / 1e12, 3)}
    began = time.perf_counter()
    for name in options.only.split(","):
        try:
            report[name] = items[name]()
        except Exception:  # noqa: BLE001 - one failure must not end the run
            report[name] = traceback.format_exc()[-1500:]
        print(f"== {name}, {time.perf_counter() - began:.0f} s in all", flush=True)
        print(json.dumps(report[name], indent=1), flush=True)
        report["tuned"] = [f"{key}: {value}" for key, value in TUNED.items()]
        if options.out:
            options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
