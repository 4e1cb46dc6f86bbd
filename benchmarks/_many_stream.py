"""The stream of many.py: requests of mixed lengths that arrive at random, beside a batch of equal answers."""

import random
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch

from benchmarks._items import noted
from benchmarks._many_common import POSITIONS, Plan, glm, lengths, percentile, significant, steady
from flagai.generation import Decoding, Prompt, generate
from flagai.generation.request import Request
from flagai.generation.scheduler import Scheduler

_LOAD = 0.8
_LONGEST = 12.0  # seconds that the stream may take; on a slower engine fewer requests come


def stream(plan: Plan) -> dict[str, Any]:
    """Tokens a second and waiting times of a stream, and of the same requests all at once."""
    model, found = glm(plan), {}
    texts = plan.texts(plan.batches[-1])
    decoding = Decoding(max_new_tokens=plan.new)
    seconds = steady(plan, lambda: generate(model, texts, decoding))
    fixed = len(texts) * plan.new / seconds
    found["fixed batch"] = {"tokens/s": significant(fixed), "texts": len(texts)}
    mix = _mix(plan)
    mean = sum(answer.max_new_tokens for _, answer in mix) / len(mix)
    mix = mix[: max(int(_LONGEST * _LOAD * fixed / mean), 1)]
    arrivals = random.Random(1)
    times = list(accumulate(arrivals.expovariate(_LOAD * fixed / mean) for _ in mix))
    for name, given in (("all at once", None), ("arrivals at 80 %", times)):
        _serve(model, mix[: len(mix) // 4 + 1], given)  # compiles, and records steps
        noted(found, name, lambda given=given: _report(mix, *_serve(model, mix, given), fixed))
    return found


Mix = Sequence[tuple[Prompt, Decoding]]


def _mix(plan: Plan) -> Mix:
    """Log-normal texts and answers; weights are random, so the option ends an answer where a stop would."""
    chance = random.Random(0)
    most = plan.config[POSITIONS]
    texts = lengths(plan.requests, 80, 0.8, 4, min(512, most // 2), chance)
    answers = lengths(plan.requests, 48, 0.8, 5, min(200, most // 4), chance)
    return [
        (plan.text(length, chance), Decoding(max_new_tokens=tokens))
        for length, tokens in zip(texts, answers, strict=True)
    ]


Seen = list[list[float]]


def _serve(model: Any, mix: Mix, arrivals: list[float] | None) -> tuple[Seen, float]:
    """When each request arrived and when its tokens came, and how long all took."""
    requests = [Request(text, decoding, number=number, stream=True) for number, (text, decoding) in enumerate(mix)]
    seen: Seen = [[0.0] for _ in requests]
    counts = [0] * len(requests)
    waiting = len(requests)
    with Scheduler(model) as scheduler:
        begin = time.perf_counter()
        if arrivals is None:
            scheduler.submit(*requests)
            waiting = 0
        while waiting or scheduler.has_work:
            now = time.perf_counter() - begin
            while waiting and arrivals is not None and arrivals[len(requests) - waiting] <= now:
                number = len(requests) - waiting
                seen[number][0] = arrivals[number]
                scheduler.submit(requests[number])
                waiting -= 1
            if not scheduler.has_work:
                time.sleep(1e-4)
                continue
            changed = scheduler.step()
            now = time.perf_counter() - begin
            for request in changed:
                number, written = request.number, len(request.certain[0]) if request.certain else 0
                seen[number] += [now] * (written - counts[number])
                counts[number] = written
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return seen, time.perf_counter() - begin


def _report(mix: Mix, seen: Seen, seconds: float, fixed: float) -> dict[str, Any]:
    tokens = sum(len(times) - 1 for times in seen)
    asked = sum(decoding.max_new_tokens for _, decoding in mix)
    last = max(times[0] for times in seen)
    # Between the arrivals of tokens; those that come together count once.
    gaps = [after - before for times in seen for before, after in pairwise(times[1:]) if after > before]
    firsts = [times[1] - times[0] for times in seen]
    found: dict[str, Any] = {
        "requests": len(mix),
        "seconds": significant(seconds),
        "tokens/s": significant(tokens / seconds),
        "of the fixed batch": round(tokens / seconds / fixed, 3),
        "missing tokens": asked - tokens,
        "seconds after the last arrival": significant(seconds - last),
    }
    for name, values in (("first token, ms", firsts), ("gap, ms", gaps or [0.0])):
        found[name] = {f"p{int(100 * share)}": significant(1e3 * percentile(values, share)) for share in (0.5, 0.99)}
    return found
