"""What the items of decode.py share: models of random weights, the clock, profiles."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks._items import attempt as attempt
from benchmarks._items import clocked as clocked
from benchmarks._items import made as made
from benchmarks._items import noted as noted
from benchmarks._items import prompt as prompt
from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.steps import captured_steps

HALF = torch.bfloat16
# Steady speeds are wanted, not those of a machine that has yet to compile: wait for kernels.
PATIENCE, compile_ahead.PATIENCE = compile_ahead.PATIENCE, 100.0
# What stays where a decoder's blocks are torch's.
BESIDE_BLOCKS = (
    "decode.greedy.greedy_step",
    "decode.quantized_ops.quantized_linear_triton",
)


def step_time(model: Any, prompts: list[Prompt], short: int, long: int, rounds: int = 3, **given: Any) -> float:
    """Seconds of a step: the difference between a long and a short answer, so what comes before does not count."""

    def run(count: int) -> float:
        decoding = Decoding(max_new_tokens=count, **given)
        return clocked(lambda: generate(model, prompts, decoding))

    run(short), run(long)
    times = [(run(long) - run(short)) / (long - short) for _ in range(rounds)]
    return statistics.median(times)


def speeds(model: Any, prompts: list[Prompt], short: int, long: int, **given: Any) -> dict[str, Any]:
    seconds = step_time(model, prompts, short, long, **given)
    return {"ms a step": round(1e3 * seconds, 4), "steps per second": round(1 / seconds, 1)}


def profile(model: Any, prompts: list[Prompt], **given: Any) -> list[dict[str, Any]]:
    """Where the time of a replayed step goes: the kernels that take the most."""
    decoding = Decoding(max_new_tokens=40, **given)
    generate(model, prompts, decoding)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        generate(model, prompts, decoding)
        torch.cuda.synchronize()
    return kernel_times(seen, 14)


def kernel_times(seen: Any, count: int) -> list[dict[str, Any]]:
    """The kernels of a profile that take the most."""
    entries = sorted(seen.key_averages(), key=lambda entry: -entry.self_device_time_total)[:count]
    return [
        {
            "kernel": entry.key[:90],
            "calls": entry.count,
            "us each": round(entry.self_device_time_total / entry.count, 2),
            "ms in all": round(entry.self_device_time_total / 1e3, 3),
        }
        for entry in entries
    ]


def logits_difference(model: Any, text: Prompt, encoder: bool = False) -> dict[str, float]:
    """How far step logits of the kernels and of torch's plain path lie from float32's, over the same ids."""
    seen: dict[str, list[torch.Tensor]] = {}
    said = () if encoder else text.ids
    ids = [*said, *prompt(24, model.config.vocab_size, 9).ids]

    def forced(name: str, subject: Any, graphs: bool) -> torch.Tensor:
        seen[name] = []

        def follow(history: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen[name].append(scores.float().clone())
            place = len(said) + len(seen[name]) - 1
            return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor(ids[place], device="cuda"), 0.0)

        count = len(ids) - len(said)
        decoding = Decoding(max_new_tokens=count, cuda_graphs=graphs)
        generate(subject, [text], decoding, logits_processors=[follow])
        return torch.stack(seen[name])

    fast, plain = forced("fast", model, True), forced("plain", model, False)
    exact = forced("exact", model.float(), False)
    return {"kernels": float((fast - exact).abs().max()), "plain": float((plain - exact).abs().max())}


@contextmanager
def replaced(model: Any, module: Any, name: str, value: Any) -> Iterator[None]:
    """Another way of computing, in the body; recordings of before are not used there, nor its own afterwards."""
    kept = getattr(module, name)
    setattr(module, name, value)
    captured_steps(model).clear()
    try:
        yield
    finally:
        setattr(module, name, kept)
        captured_steps(model).clear()
