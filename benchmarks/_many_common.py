"""What the rows of many.py share: sizes, texts, steady times, and what the memory allows."""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from benchmarks._items import clocked, made
from benchmarks._measure import copy_bandwidth
from flagai.generation import Prompt
from flagai.model.glm_model import GLMModel

LAYERS, WIDTH, VOCABULARY, POSITIONS = "num_layers", "hidden_size", "vocab_size", "max_sequence_length"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        config: the shape of the GLM.
        device: "cuda" or "cpu".
        dtype: of its weights.
        batches: texts of a call.
        new: tokens of an answer.
        prompts: the shortest and the longest text.
        past: tokens in front of a step.
        samples: answers to one text, the largest last.
        answers: tokens of a sample, the largest last.
        beam_texts: texts with 4 beams.
        requests: of the stream.
        titles: texts of a call.
        title_tokens: the most tokens of a title.
        file: texts of the file of titles.
        peer_texts: about how many of them transformers writes.
        checks: requests that are also answered alone.
        rounds: how many runs must agree.
        seconds: the most that a warm-up may take.
    """

    config: dict[str, Any]
    device: str
    dtype: torch.dtype
    batches: tuple[int, ...] = (16, 64, 256, 512)
    new: int = 64
    prompts: tuple[int, int] = (64, 256)
    past: tuple[int, ...] = (20, 300, 800)
    samples: tuple[int, ...] = (8, 16, 32, 64)
    answers: tuple[int, ...] = (64, 128, 256)
    beam_texts: int = 64
    requests: int = 4000
    titles: tuple[int, ...] = (16, 256, 1024)
    title_tokens: int = 48
    file: int = 2000
    peer_texts: int = 400
    checks: int = 300
    rounds: int = 3
    seconds: float = 5.0

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of a token."""
        return 2 * self.config[LAYERS] * self.config[WIDTH] * self.dtype.itemsize

    def texts(self, count: int, seed: int = 0) -> list[Prompt]:
        """Texts of random ids, with lengths drawn uniformly."""
        chance = random.Random(seed)
        return [self.text(chance.randint(*self.prompts), chance) for _ in range(count)]

    def text(self, length: int, chance: random.Random) -> Prompt:
        """A text of random ids."""
        return Prompt(tuple(chance.randrange(10, self.config[VOCABULARY]) for _ in range(length)))


def large() -> Plan:
    """GLM-large's shape, on a GPU."""
    config = {LAYERS: 24, VOCABULARY: 50304, WIDTH: 1024, "num_attention_heads": 16, POSITIONS: 1024}
    return Plan(config, "cuda", torch.bfloat16)


def tiny() -> Plan:
    """A few steps of everything on a CPU: whether the benchmark works."""
    config = {LAYERS: 2, VOCABULARY: 512, WIDTH: 64, "num_attention_heads": 4, POSITIONS: 64}
    return Plan(
        config, "cpu", torch.float32, batches=(2, 3), new=3, prompts=(4, 9), past=(5, 20), samples=(1, 2),
        answers=(2, 4), beam_texts=2, requests=12, titles=(2,), title_tokens=3, file=4, peer_texts=2, checks=24,
        rounds=1, seconds=0,
    )  # fmt: skip


def on_cpu() -> Plan:
    """What is measured on a machine without a GPU: files of titles, and equal answers."""
    return replace(tiny(), answers=(64,), title_tokens=48, file=2000, peer_texts=160, checks=300)


@cache
def bandwidth(device: str) -> float:
    """Bytes a second of a copy on the device; infinite where it is not measured."""
    if device != "cuda":
        return math.inf
    found = copy_bandwidth()
    torch.cuda.empty_cache()
    return found


def glm(plan: Plan) -> Any:
    """The model of the plan."""
    return made(GLMModel, plan.config, plan.dtype, plan.device)


def size(model: Any) -> int:
    """Bytes of the weights."""
    return sum(parameter.nbytes for parameter in model.parameters())


def step_limit(plan: Plan, model: Any, tokens: float) -> float:
    """Seconds that a copy of what a step reads takes: the weights, and the keys and values of so many tokens."""
    return (size(model) + tokens * plan.token_bytes) / bandwidth(plan.device)


def steady(plan: Plan, work: Callable[[], Any]) -> float:
    """Seconds of some work once it has become as fast as it gets: the median of runs that agree within 5 %.

    The first runs compile kernels and record steps, also behind the caller's back.
    """
    begin = time.perf_counter()
    times = [clocked(work) for _ in range(1 + (plan.rounds > 1))]
    while True:
        times.append(clocked(work))
        last = times[-plan.rounds :]
        if time.perf_counter() - begin > plan.seconds or max(last) <= 1.05 * min(times):
            return statistics.median(last)


def step_seconds(plan: Plan, run: Callable[[int], Any], short: int, long: int) -> float:
    """Seconds of a step: the difference between a long and a short answer, so what comes before does not count."""
    steady(plan, lambda: run(long))
    steady(plan, lambda: run(short))
    pairs = [(clocked(lambda: run(long)), clocked(lambda: run(short))) for _ in range(2 * plan.rounds - 1)]
    return statistics.median((after - before) / (long - short) for after, before in pairs)


def rate(limit: float, amount: float) -> dict[str, float]:
    """Amount a second at the limit, if there is one."""
    return {} if limit == 0 else {"limit": significant(amount / limit)}


def significant(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def lengths(count: int, median: float, sigma: float, least: int, most: int, chance: random.Random) -> list[int]:
    """Log-normal lengths, cut."""
    return [
        min(max(round(median * math.exp(sigma * chance.gauss(0, 1))), least), most)
        for _ in range(count)
    ]  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
