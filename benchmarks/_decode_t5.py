"""T5 on one GPU, for decode.py: a step of T5-base, its products one by one, fast answers beside plain ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks._decode_common import HALF, attempt, logits_difference, made, noted, profile, prompt, replaced, speeds
from benchmarks._decode_kernels import replayed
from benchmarks._decode_peers import t5_peer
from flagai.generation import Decoding, generate, static
from flagai.model.block import fused_t5
from flagai.model.layer import decoding_t5 as kernels
from flagai.model.layer.decoding import Slots
from flagai.model.layer.decoding_t5 import Tiles
from flagai.model.layer.norm import RMSNorm
from flagai.model.t5_model import T5Model

T5_BASE = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
    "num_heads": 12, "decoder_start_token_id": 0,
}  # fmt: skip
GATED = {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_ff": 2048}
# Ways to cut a product whose rows have some size.
_WAYS: dict[str, Callable[[int, int], Tiles]] = {
    "ours": Tiles.of,
    "all in pieces": lambda size, _: Tiles(16, 8, 32 if size <= 1024 else 64),
    "4 warps": lambda size, tokens: Tiles(16, 4, 256 if size <= 1024 and tokens <= 16 else 64),
    "longer pieces": lambda *_: Tiles(16, 8, 128),
    "32 rows": lambda size, tokens: Tiles(32, 8, 128 if size <= 1024 and tokens <= 16 else 64),
}


def t5(options: Any) -> dict[str, Any]:
    """A step of T5-base, and where its time goes."""
    found: dict[str, Any] = {}
    texts = [prompt(256, 32000, seed) for seed in range(8)]
    beams: dict[str, Any] = {"num_beams": 4}
    model = made(T5Model, T5_BASE)
    noted(found, str(HALF), lambda: speeds(model, texts, 32, 160))
    found["kernels"] = [bool(step.cache.faster) for step in static.steps_of(model)._ready]
    noted(found, "beams 4", lambda: speeds(model, texts, 32, 160, **beams))
    for name, product, project in (("torch's products", _product, _project), ("torch's down", _down, None)):
        with (
            replaced(model, fused_t5, "t5_product", product),
            replaced(model, fused_t5, "t5_project", project or fused_t5.t5_project),
        ):
            noted(found, name, lambda: speeds(model, texts, 32, 160))
            noted(found, f"{name}, beams 4", lambda: speeds(model, texts, 32, 160, **beams))
    with replaced(model, static, "faster_blocks", lambda *_: ()):
        noted(found, "torch's kernels", lambda: speeds(model, texts, 32, 160))
        noted(found, "torch's kernels, beams 4", lambda: speeds(model, texts, 32, 160, **beams))
    for name, owner, key, value in (
        ("not early", kernels, "_early", lambda *_: {"EARLY": False}),
        ("4 warps", kernels.Tiles, "of", _WAYS["4 warps"]),
        ("all in pieces", kernels.Tiles, "of", _WAYS["all in pieces"]),
    ):
        with replaced(model, owner, key, value):
            noted(found, name, lambda: speeds(model, texts, 32, 96))
    with replaced(model, kernels, "_MOST_BESIDE_HELD", 32):
        noted(found, "rows held beside 32 tokens, beams 4", lambda: speeds(model, texts, 32, 96, **beams))
    noted(found, "profile", lambda: profile(model, texts))
    noted(found, "transformers", lambda: t5_peer(texts, T5_BASE))
    return found


def t5_ways(options: Any) -> dict[str, Any]:
    """Other types, other ways to cut the products."""
    found: dict[str, Any] = {}
    texts = [prompt(256, 32000, seed) for seed in range(8)]
    beams: dict[str, Any] = {"num_beams": 4}
    model = made(T5Model, T5_BASE)
    noted(found, "batch 1", lambda: speeds(model, texts[:1], 32, 96))
    for name, way in _WAYS.items():
        with replaced(model, kernels.Tiles, "of", way):
            noted(found, name, lambda: speeds(model, texts, 32, 96))
            noted(found, f"{name}, beams 4", lambda: speeds(model, texts, 32, 96, **beams))
    for name, key, value in (
        ("the encoder's text is not held", "_MOST_HELD_SLOTS", 0),
        ("128 slots together", "_SLOTS", 128),
    ):
        with replaced(model, kernels, key, value):
            noted(found, name, lambda: speeds(model, texts, 32, 96))
    noted(found, "profile of beams", lambda: profile(model, texts, **beams))
    for dtype in (torch.float16, torch.float32):
        other = made(T5Model, T5_BASE, dtype)
        noted(found, str(dtype), lambda other=other: speeds(other, texts, 32, 96))
    noted(found, "gated", lambda: speeds(made(T5Model, {**T5_BASE, **GATED}), texts, 32, 96))
    noted(found, "step by step", lambda: speeds(model, texts, 8, 24, rounds=1, cuda_graphs=False))
    return found


def _normed(tokens: torch.Tensor, norm: RMSNorm | None) -> torch.Tensor:
    if norm is None:
        return tokens
    from flagai.model.layer.triton_t5 import rms_norm_kernel

    out, size = torch.empty_like(tokens), tokens.shape[1]
    rms_norm_kernel[(len(tokens),)](tokens, norm.weight, norm.eps, out, K=size, BK=1024, EARLY=False, num_warps=4)
    return out


def _product(tokens: torch.Tensor, layer: nn.Linear, **given: Any) -> torch.Tensor:
    """:func:`t5_product` by torch's product, with a norm of ours."""
    tokens, residual = _normed(tokens, given.pop("norm", None)), given.pop("residual", None)
    if residual is not None:
        return torch.addmm(residual, tokens, layer.weight.t())
    return kernels.t5_product_reference(tokens, layer, **given)


def _project(tokens: torch.Tensor, norm: RMSNorm, *layers: Any) -> torch.Tensor:
    return kernels.t5_project_reference(_normed(tokens, norm), nn.Identity(), *layers)


def _down(tokens: torch.Tensor, layer: nn.Linear, **given: Any) -> torch.Tensor:
    """:func:`t5_product`, but the product with long rows is torch's."""
    compute = _product if tokens.shape[1] > 1024 else kernels.t5_product
    return compute(tokens, layer, **given)


def equal_t5() -> dict[str, Any]:
    """Answers and logits of T5 by kernels and by the plain path."""
    found: dict[str, Any] = {}
    prompts = [prompt(count, 32000, count) for count in (30, 11, 3)]
    for name, changes in (("relu", {}), ("gated", GATED)):
        for dtype in (HALF, torch.float16, torch.float32):
            model = made(T5Model, {**T5_BASE, **changes, "num_layers": 4}, dtype)
            for search, given in (("greedy", {}), ("beams", {"num_beams": 4})):
                noted(found, f"{name} {dtype} {search}", partial(_same, model, prompts, given))
            if dtype is not torch.float32:
                noted(found, f"{name} {dtype} logits", partial(logits_difference, model, prompts[0], encoder=True))
    return found


def _same(model: Any, prompts: Any, given: dict[str, Any]) -> dict[str, Any]:
    decoding = [Decoding(max_new_tokens=40, **given, cuda_graphs=graphs) for graphs in (True, False)]
    fast, plain = (generate(model, prompts, each) for each in decoding)
    again = generate(model, prompts, decoding[0])
    steps = static.steps_of(model)._ready
    return {
        "same ids": [row[0].ids for row in fast] == [row[0].ids for row in plain],
        "same again": [row[0].ids for row in fast] == [row[0].ids for row in again],
        "scores": [round(rows[0][0].score, 3) for rows in (fast, plain)],
        "kernels": bool(steps and steps[-1].cache.faster),
    }


@torch.inference_mode()
def t5_kernels(options: Any) -> dict[str, Any]:
    """Microseconds of each product of a block with each way of cutting it, beside torch's; many layers in one graph."""
    found: dict[str, Any] = {}
    for rows in (8, 32) if options.quick else (1, 8, 32, 64):
        for name, (outputs, inputs, given) in _products(rows).items():
            layers = [_layer(inputs, outputs) for _ in range(24)]
            tokens = torch.randn(rows, inputs, device="cuda", dtype=HALF)
            ways: dict[str, Callable[[nn.Linear], Any]] = {"torch": lambda layer, x=tokens: F.linear(x, layer.weight)}
            for way, cut in _WAYS.items():
                ways[way] = partial(_tiled, tokens, given, cut(inputs, rows))
            found[f"{name}, {rows} rows"] = {way: attempt(_time, layers, compute) for way, compute in ways.items()}
    for batch, lanes in ((8, 1), (8, 4)):
        for slots in (128, 256):
            times = {most: attempt(_attention, batch, lanes, slots, most) for most in (0, 256)}
            found[f"attention, {batch} x {lanes} to {slots}, at most so many held"] = times
    return found


def _products(rows: int) -> dict[str, tuple[int, int, dict[str, Any]]]:
    norm = RMSNorm(768).to("cuda", HALF).requires_grad_(False)
    residual = torch.randn(rows, 768, device="cuda", dtype=HALF)
    return {
        "query": (768, 768, {"norm": norm}),
        "out": (768, 768, {"residual": residual}),
        "up": (3072, 768, {"norm": norm, "activation_name": "relu"}),
        "down": (768, 3072, {"residual": residual}),
        "q, k, v as one": (2304, 768, {"norm": norm}),
    }


def _layer(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False, device="cuda", dtype=HALF).requires_grad_(False)


def _tiled(tokens: torch.Tensor, given: dict[str, Any], tiles: Tiles, layer: nn.Linear) -> torch.Tensor:
    return kernels.t5_product(tokens, layer, **given, tiles=tiles)


def _time(layers: list[nn.Linear], compute: Callable[[nn.Linear], Any]) -> float:
    seconds = replayed(lambda: [compute(layer) for layer in layers] and None) / len(layers)
    return round(1e6 * seconds, 2)


def _attention(batch: int, lanes: int, slots: int, most: int) -> float:
    kernels._MOST_HELD_SLOTS = most
    keys, values = torch.randn(2, batch, 12, slots, 64, device="cuda", dtype=HALF)
    cache = Slots(keys, values, torch.arange(lanes, device="cuda"))
    query = torch.randn(batch * lanes, 768, device="cuda", dtype=HALF)
    mask = torch.ones(batch, 1, 1, slots, dtype=torch.bool, device="cuda")

    def run() -> None:
        for _ in range(24):
            kernels.t5_attend(query, cache.keys, cache.values, mask, 1.0)

    return round(1e6 * replayed(run) / 24, 2)
