"""Decoding and encoding on one GPU: this library, transformers, and what the memory allows.

    PYTHONPATH=src:. python benchmarks/decode.py --out decode.json [--quick] [--only glm,t5] [--peers]

Models have random weights and are made on the GPU. What is measured: a step of GLM-10b's shape (greedy, sampling and
4 beams; by kernels of this library, by torch's within CUDA graphs, and step by step), the time to the first token of
a fresh model, T5-base with batch 8, GPT-2 124M, BERT-base embeddings without padding, the products one by one, and
whether fast answers equal the plain ones. An item that fails is noted, and the rest goes on.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks import _decode_kernels as kernels
from benchmarks import _decode_lookup as lookups
from benchmarks import _items
from benchmarks._decode_bert import bert
from benchmarks._decode_common import (
    BESIDE_BLOCKS,
    HALF,
    PATIENCE,
    attempt,
    logits_difference,
    made,
    noted,
    profile,
    prompt,
    speeds,
)
from benchmarks._decode_peers import gpt2_peer
from benchmarks._decode_small import GLM_10B, small, small_kernels
from benchmarks._decode_t5 import T5_BASE, equal_t5, t5
from benchmarks._measure import copy_bandwidth, machine, versions
from flagai.generation import Decoding, Prompt, generate, stream
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.steps import captured_steps
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.t5_model import T5Model

GPT2_124M = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "bos_token_id": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no other tilings")
    parser.add_argument("--only", default="", help="names of items, with commas between")
    parser.add_argument("--peers", action="store_true", help="also transformers with 10B parameters")
    parser.add_argument("--inside", action="store_true", help="run in this process and print the result as JSON")
    parser.add_argument("--limit", type=float, default=240, help="seconds that one item may take")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(ITEMS)
    if options.inside:
        print(_items.MARK + json.dumps(attempt(ITEMS[chosen[0]], options)), flush=True)
        return
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "gpu": torch.cuda.get_device_name()}
    began = time.perf_counter()
    for name in chosen:
        start = time.perf_counter()
        report[name] = apart(name, options)
        print(f"== {name}: {time.perf_counter() - start:.1f} s, {time.perf_counter() - began:.1f} in all", flush=True)
        print(json.dumps(report[name], indent=1), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


def apart(name: str, options: Any, **variables: str) -> Any:
    """Run an item in a process of its own."""
    flags = [flag for flag, given in (("--quick", options.quick), ("--peers", options.peers)) if given]
    return _items.apart(Path(__file__), name, flags, options.limit, **variables)


def limits(options: Any) -> dict[str, Any]:
    bandwidth = copy_bandwidth()
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=HALF) for _ in range(2))
    seconds = kernels.replayed(lambda: [left @ right for _ in range(4)] and None) / 4
    return {"copy TB/s": round(bandwidth / 1e12, 3), "matmul TFLOP/s": round(2 * 8192**3 / seconds / 1e12)}


def equal(options: Any) -> dict[str, Any]:
    """Whether fast answers are the plain ones; sizes are such that the kernels are used."""
    found: dict[str, Any] = {}
    config = {**GLM_10B, "num_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 5000}
    for dtype in (torch.float32, HALF):
        model = made(GLMModel, config, dtype)
        prompts = [prompt(11, 5000, seed) for seed in range(2)]
        for name, given in (
            ("greedy", {}),
            ("beams", {"num_beams": 4}),
            ("sampling", {"do_sample": True, "seed": 3, "num_return_sequences": 2, "top_k": 50, "top_p": 0.9}),
        ):
            decoding = [Decoding(max_new_tokens=40, **given, cuda_graphs=graphs) for graphs in (True, False)]
            fast, plain = (generate(model, prompts, each) for each in decoding)
            again = generate(model, prompts, decoding[0])
            found[f"{dtype} {name}"] = {
                "same ids": [row[0].ids for row in fast] == [row[0].ids for row in plain],
                "same again": [row[0].ids for row in fast] == [row[0].ids for row in again],
                "scores": [round(rows[0][0].score, 3) for rows in (fast, plain)],
                "kernels": any(step.kernels for steps in captured_steps(model) for step in steps.forwards.values()),
            }
        if dtype is not torch.float32:
            found[f"{dtype} logits"] = logits_difference(model, prompts[0])
    noted(found, "t5", equal_t5)
    return found


def glm(options: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model, text = made(GLMModel, GLM_10B), [prompt(32, 50000)]
    found["GB"] = round(sum(parameter.nbytes for parameter in model.parameters()) / 1e9, 2)
    noted(found, "a fresh model, ms", lambda: arrivals(model, text))
    noted(found, "the same again, ms", lambda: arrivals(model, text))
    short, long = (32, 96) if options.quick else (32, 160)
    beams: dict[str, Any] = {"num_beams": 4}
    batch = [prompt(32, 50000, seed) for seed in range(8)]
    noted(found, "greedy", lambda: speeds(model, text, short, long))
    noted(found, "beams 4", lambda: speeds(model, text, short, long, **beams))
    noted(found, "batch 8", lambda: speeds(model, batch, short, long, rounds=1))
    with only_kernels(*BESIDE_BLOCKS):
        noted(found, "greedy, torch's products", lambda: speeds(model, text, short, long, rounds=1))
        noted(found, "beams 4, torch's products", lambda: speeds(model, text, short, long, rounds=1, **beams))
        noted(found, "batch 8, torch's products", lambda: speeds(model, batch, short, long, rounds=1))
    sampling = {"do_sample": True, "top_k": 50, "top_p": 0.9, "seed": 1}
    noted(found, "sampling", lambda: speeds(model, text, short, long, rounds=1, **sampling))
    noted(found, "greedy, step by step", lambda: speeds(model, text, 8, 24, rounds=1, cuda_graphs=False))
    noted(found, "profile", lambda: profile(model, text))
    noted(found, "profile of beams", lambda: profile(model, text, **beams))
    found["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def arrivals(model: Any, text: list[Prompt], count: int = 20) -> dict[str, float]:
    """When the tokens of an answer come, in milliseconds."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    times = [time.perf_counter() - start for event in stream(model, text, Decoding(max_new_tokens=count)) if event.ids]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    told = {f"token {place}": times[place - 1] for place in (1, 2, 3, 4, 20, 100, 300) if place <= len(times)}
    told |= {"longest gap": max(gaps), "next longest": sorted(gaps)[-2], "median gap": statistics.median(gaps)}
    return {name: round(1e3 * seconds, 1) for name, seconds in told.items()}


def fresh(options: Any) -> dict[str, Any]:
    """The tokens of a model that has just been made, in a process that has done nothing else."""
    compile_ahead.PATIENCE = PATIENCE
    model, text = made(GLMModel, GLM_10B), [prompt(32, 50000)]
    return {"first answer, ms": arrivals(model, text, 300), "second answer, ms": arrivals(model, text, 300)}


def first_tokens(options: Any) -> dict[str, Any]:
    """How tokens come on a machine where Triton has compiled nothing yet, and in the next process there."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nothing compiled", "the next process"):
            noted(found, name, lambda: apart("fresh", options, TRITON_CACHE_DIR=folder))
    return found


def gpt2(options: Any) -> dict[str, Any]:
    model, text = made(GPT2Model, GPT2_124M), [prompt(32, 50000)]
    found: dict[str, Any] = {"GB": round(sum(parameter.nbytes for parameter in model.parameters()) / 1e9, 3)}
    noted(found, "greedy", lambda: speeds(model, text, 64, 320))
    noted(found, "beams 4", lambda: speeds(model, text, 64, 192, num_beams=4))
    noted(found, "float32 greedy", lambda: speeds(made(GPT2Model, GPT2_124M, torch.float32), text, 64, 192))
    noted(found, "step by step", lambda: speeds(model, text, 16, 48, rounds=1, cuda_graphs=False))
    noted(found, "transformers", lambda: gpt2_peer(text[0], GPT2_124M, 16, 64))
    noted(found, "profile", lambda: profile(model, text)[:8])
    return found


def peer10b(options: Any) -> dict[str, Any]:
    if not options.peers:
        return {"left out": "run with --peers"}
    config = {"vocab_size": 50048, "n_embd": 4096, "n_layer": 48, "n_head": 64, "bos_token_id": 1}
    return gpt2_peer(prompt(32, 50000), config, 8, 40)


def kernel_table(options: Any) -> dict[str, Any]:
    rows = (1, 4) if options.quick else (1, 4, 8)
    return {"products": kernels.table(rows, tune=not options.quick), "attention": attempt(kernels.attention_table)}


def lookup(options: Any) -> dict[str, Any]:
    return lookups.table({"glm": (GLMModel, GLM_10B), "gpt2": (GPT2Model, GPT2_124M), "t5": (T5Model, T5_BASE)})


ITEMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "limits": limits,
    "equal": equal,
    "glm": glm,
    "int8": lambda options: small("int8", options),
    "int4": lambda options: small("int4", options),
    "small_kernels": small_kernels,
    "first_tokens": first_tokens,
    "fresh": fresh,
    "gpt2": gpt2,
    "t5": t5,
    "bert": bert,
    "lookup": lookup,
    "kernels": kernel_table,
    "peer10b": peer10b,
}

if __name__ == "__main__":
    main()
