"""Rows of many.py: one text, batches, samples and beams of a model of random weights."""

from dataclasses import replace
from typing import Any

import torch

from benchmarks._items import noted
from benchmarks._many_common import Plan, clocked, glm, rate, significant, size, steady, step_limit, step_seconds
from flagai.generation import Decoding, Prompt, generate

_BLOCK = 16  # tokens of a block of keys and values
_SAMPLED_TEXT = 128


def single(plan: Plan) -> dict[str, Any]:
    """One text: a step after some tokens, and what a call takes before its first token."""
    model, found = glm(plan), {}
    for past in plan.past:
        noted(found, f"step after {past}", lambda past=past: _step(plan, model, past))

    def first() -> dict[str, float]:
        (text,) = plan.texts(1)
        seconds = steady(plan, lambda: generate(model, [text], Decoding(max_new_tokens=1)))
        return {"ms": significant(1e3 * seconds), **_limit(2e3 * step_limit(plan, model, len(text.ids)))}

    noted(found, "first token", first)
    return found


def _step(plan: Plan, model: Any, past: int) -> dict[str, float]:
    text = Prompt(tuple(range(10, 10 + past)))
    seconds = step_seconds(
        plan, lambda count: generate(model, [text], Decoding(max_new_tokens=count)), plan.new // 4 + 1, plan.new + 16
    )
    return {"ms": significant(1e3 * seconds), **_limit(1e3 * step_limit(plan, model, past + plan.new / 2))}


def _limit(milliseconds: float) -> dict[str, float]:
    return {"limit": significant(milliseconds)} if milliseconds else {}


def batch(plan: Plan) -> dict[str, Any]:
    """Greedy answers to many texts in one call, and the memory of the largest call."""
    model, found = glm(plan), {}
    for count in plan.batches:
        noted(found, f"batch {count}", lambda count=count: _greedy(plan, model, count))
    return found


def _greedy(plan: Plan, model: Any, count: int) -> dict[str, Any]:
    texts, decoding = plan.texts(count), Decoding(max_new_tokens=plan.new)
    tokens = sum(len(text.ids) + plan.new / 2 for text in texts)
    limit = step_limit(plan, model, tokens)
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = steady(plan, lambda: generate(model, texts, decoding))
    found = {"tokens/s": significant(count * plan.new / seconds), **rate(limit, count)}
    found |= _memory(plan, model, texts)
    # Without prompts, which the limit does not count either.
    step = step_seconds(
        plan,
        lambda new: generate(model, texts, replace(decoding, max_new_tokens=new)),
        plan.new // 4 + 1,
        plan.new + 16,
    )
    return found | {"steps alone, tokens/s": significant(count / step)}


def _memory(plan: Plan, model: Any, texts: list[Prompt]) -> dict[str, float]:
    """The peak of the GPU's memory beside the weights and the blocks that all answers have at their ends."""
    if plan.device != "cuda":
        return {}
    blocks = sum(-(-(len(text.ids) + plan.new) // _BLOCK) for text in texts)
    needed = size(model) + blocks * _BLOCK * plan.token_bytes
    peak = torch.cuda.max_memory_allocated()
    return {
        "peak GB": significant(peak / 1e9),
        "reserved GB": significant(torch.cuda.max_memory_reserved() / 1e9),
        "needed GB": significant(needed / 1e9),
        "peak over needed": round(peak / needed, 3),
    }


def samples(plan: Plan) -> dict[str, Any]:
    """Samples of one text; their cost over their number and over their length."""
    model, found = glm(plan), {}
    text = Prompt(tuple(range(10, 10 + min(_SAMPLED_TEXT, plan.config["max_sequence_length"] // 2))))
    times: dict[tuple[int, int], float] = {}

    def run(count: int, tokens: int) -> dict[str, float]:
        decoding = Decoding(max_new_tokens=tokens, do_sample=True, seed=1, num_return_sequences=count)
        seconds = times[count, tokens] = steady(plan, lambda: generate(model, [text], decoding))
        limit = step_limit(plan, model, len(text.ids) + count * tokens / 2)
        return {
            "seconds": significant(seconds),
            "tokens/s": significant(count * tokens / seconds),
            **rate(limit, count),
        }

    most, longest = plan.samples[-1], plan.answers[-1]
    for count in plan.samples:
        noted(found, f"samples {count}", lambda count=count: run(count, longest))
    for tokens in plan.answers[:-1]:
        noted(found, f"{most} samples, {tokens} tokens", lambda tokens=tokens: run(most, tokens))
    # 1 where twice as much takes twice the time; above 1 it grows faster than the work.
    pairs = {"samples": ((most, longest), (most // 2, longest)), "tokens": ((most, longest), (most, longest // 2))}
    found["growth"] = {
        name: round(times[twice] / times[once] / 2, 3)
        for name, (twice, once) in pairs.items()
        if twice in times and once in times
    }
    return found


def beams(plan: Plan) -> dict[str, Any]:
    """Four beams for many texts."""
    model, found = glm(plan), {}
    texts, decoding = plan.texts(plan.beam_texts), Decoding(max_new_tokens=plan.new, num_beams=4)

    def run() -> dict[str, float]:
        seconds = steady(plan, lambda: generate(model, texts, decoding))
        # Beams part early: each has keys and values of its own for what it wrote.
        limit = plan.new * step_limit(plan, model, sum(len(text.ids) + 4 * plan.new / 2 for text in texts))
        return {"answers/s": significant(len(texts) / seconds), **rate(limit, len(texts))}

    noted(found, f"beams, batch {plan.beam_texts}", run)
    return found


def profile(plan: Plan) -> dict[str, Any]:
    """Where the time of a large batch goes: kernels, and the share of the time in which the GPU works."""
    if plan.device != "cuda":
        return {}
    model, found = glm(plan), {}
    for count in plan.batches:
        texts, decoding = plan.texts(count), Decoding(max_new_tokens=plan.new)
        steady(plan, lambda texts=texts, decoding=decoding: generate(model, texts, decoding))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            seconds = clocked(lambda texts=texts, decoding=decoding: generate(model, texts, decoding))
        entries = sorted(seen.key_averages(), key=lambda entry: -entry.self_device_time_total)
        busy = sum(entry.self_device_time_total for entry in entries) / 1e6
        found[f"batch {count}"] = {
            "seconds": significant(seconds),
            "busy": round(busy / seconds, 3),
            "kernels, ms": {
                f"{entry.key[:70]} x {entry.count}": round(entry.self_device_time_total / 1e3, 2)
                for entry in entries[:16]
            },
        }
    return found
