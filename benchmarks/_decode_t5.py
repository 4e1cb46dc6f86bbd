"""T5 on one GPU, for decode.py: a step of T5-base, fast answers beside plain ones."""

from functools import partial
from typing import Any

import torch

from benchmarks._decode_common import BESIDE_BLOCKS, HALF, logits_difference, made, noted, profile, prompt, speeds
from benchmarks._decode_peers import t5_peer
from flagai.generation import Decoding, generate
from flagai.generation.replay.steps import captured_steps
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.t5_model import T5Model

T5_BASE = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
    "num_heads": 12, "decoder_start_token_id": 0,
}  # fmt: skip
GATED = {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_ff": 2048}


def t5(options: Any) -> dict[str, Any]:
    """A step of T5-base, with one kernel for each norm and with torch's, and where its time goes."""
    found: dict[str, Any] = {}
    texts = [prompt(256, 32000, seed) for seed in range(8)]
    beams: dict[str, Any] = {"num_beams": 4}
    model = made(T5Model, T5_BASE)
    decoder = [weight for name, weight in model.named_parameters() if not name.startswith("encoder")]
    found["GB"] = round(sum(weight.nbytes for weight in decoder) / 1e9, 3)
    noted(found, str(HALF), lambda: speeds(model, texts, 32, 160))
    found["kernels"] = [bool(step.kernels) for steps in captured_steps(model) for step in steps.forwards.values()]
    noted(found, "beams 4", lambda: speeds(model, texts, 32, 160, **beams))
    with only_kernels(*BESIDE_BLOCKS):
        noted(found, "torch's norms", lambda: speeds(model, texts, 32, 160))
        noted(found, "torch's norms, beams 4", lambda: speeds(model, texts, 32, 160, **beams))
    noted(found, "profile", lambda: profile(model, texts))
    noted(found, "transformers", lambda: t5_peer(texts, T5_BASE))
    if options.quick:
        return found
    for dtype in (torch.float16, torch.float32):
        other = made(T5Model, T5_BASE, dtype)
        noted(found, str(dtype), lambda other=other: speeds(other, texts, 32, 96))
    noted(found, "gated", lambda: speeds(made(T5Model, {**T5_BASE, **GATED}), texts, 32, 96))
    noted(found, "step by step", lambda: speeds(model, texts, 8, 24, rounds=1, cuda_graphs=False))
    return found


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
    steps = [step for each in captured_steps(model) for step in each.forwards.values()]
    return {
        "same ids": [row[0].ids for row in fast] == [row[0].ids for row in plain],
        "same again": [row[0].ids for row in fast] == [row[0].ids for row in again],
        "scores": [round(rows[0][0].score, 3) for rows in (fast, plain)],
        "kernels": bool(steps and steps[-1].kernels),
    }
