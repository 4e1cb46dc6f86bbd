"""Decoding by transformers, for decode.py, and the clock that both sides are measured with."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from flagai.generation import Prompt


def clocked(work: Callable[[], Any]) -> float:
    """Seconds until the GPU has done the work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def gpt2_peer(text: Prompt, config: dict[str, Any], short: int, long: int) -> dict[str, Any]:
    import transformers

    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.tensor([text.ids], device="cuda")
    found = {"greedy": peer_step(model, {"input_ids": ids}, short, long)}
    found["beams 4"] = peer_step(model, {"input_ids": ids}, short, long, num_beams=4)
    return found


def peer_step(model: Any, inputs: dict[str, Any], short: int, long: int, **given: Any) -> dict[str, Any]:
    def run(count: int) -> float:
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        return clocked(lambda: model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0, **given))

    run(short)
    seconds = statistics.median((run(long) - run(short)) / (long - short) for _ in range(2))
    return {"ms a step": round(1e3 * seconds, 3), "steps a second": round(1 / seconds, 1)}


def t5_peer(texts: list[Prompt], config: dict[str, Any]) -> dict[str, Any]:
    import transformers

    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("cuda"):
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).eval().to(torch.bfloat16)
    ids = torch.tensor([text.ids for text in texts], device="cuda")
    return peer_step(model, {"input_ids": ids}, 8, 40)
