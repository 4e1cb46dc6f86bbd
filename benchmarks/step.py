"""A decoding step of GPT-2 (124M, float32, random weights) on a CPU: this library, transformers, and the limit.

    python benchmarks/step.py [--rounds 5] [--threads 2] [--out results.json]

Milliseconds a step, greedy and with 4 beams, as the difference between a long and a short answer; all sides in turns,
medians: flagai, transformers as it runs by default, and tuned (static cache, forward pass compiled by torch.compile).
The limit is the time to read the weights once with all cores.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from _measure import machine, versions

from flagai.generation import Decoding, Prompt, generate
from flagai.model.gpt2_model import GPT2Model

_SHORT, _LONG = 8, 40
_SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beams 4": {"num_beams": 4}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    writers, weights = make_writers()
    found: dict[str, Any] = {"limit": _median(lambda: _read(weights), options.rounds)}
    for search, given in _SEARCHES.items():
        answers = {name: write(_LONG, given) for name, write in writers.items()}
        same = all(answer == answers["flagai"] for answer in answers.values())
        times: dict[str, list[float]] = {name: [] for name in writers}
        for _ in range(options.rounds):
            for name, write in writers.items():
                times[name].append(_step(lambda count, write=write, given=given: write(count, given)))
        found[search] = {name: round(statistics.median(each), 3) for name, each in times.items()}
        found[search] |= {"same ids": same, "all": times}
        ratio = found[search]["transformers"] / found[search]["flagai"]
        print(f"{search:8} flagai {found[search]['flagai']} ms, transformers {found[search]['transformers']} ms "
              f"({ratio:.2f} x), tuned {found[search]['tuned']} ms; same ids: {same}", flush=True)  # fmt: skip
    print(f"limit    {found['limit']:.2f} ms")
    if options.out is not None:
        report = {"machine": machine(), "versions": versions(), "step": found}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def make_writers() -> tuple[dict[str, Callable[[int, dict[str, Any]], list[int]]], torch.Tensor]:
    """Both libraries with the same weights, and as many numbers as they have."""
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=1, eos_token_id=None)).eval()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        model = GPT2Model.from_pretrained(folder, pad_token_id=None)
    ids = torch.randint(10, 50000, (1, 32))

    def ours(count: int, given: dict[str, Any]) -> list[int]:
        prompt = Prompt(tuple(ids[0].tolist()))
        return list(generate(model, [prompt], Decoding(max_new_tokens=count, **given))[0][0].ids)

    def theirs(count: int, given: dict[str, Any], **tuned: Any) -> list[int]:
        lengths = {"max_new_tokens": count, "min_new_tokens": count, "length_penalty": 0.0}
        extra = {"early_stopping": "never", **given} if given else {}
        row = peer.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **lengths, **extra, **tuned
        )
        return row[0, ids.shape[1] :].tolist()

    compiled = transformers.CompileConfig(mode="default")
    compiled._compile_all_devices = True  # generate() compiles on GPUs only, unless told
    tuned = partial(theirs, cache_implementation="static", compile_config=compiled)
    return {"flagai": ours, "transformers": theirs, "tuned": tuned}, torch.randn(
        sum(p.numel() for p in model.parameters())
    )


def _step(write: Callable[[int], object]) -> float:
    begin = time.perf_counter()
    write(_SHORT)
    middle = time.perf_counter()
    write(_LONG)
    return 1e3 * (time.perf_counter() - 2 * middle + begin) / (_LONG - _SHORT)


def _read(weights: torch.Tensor) -> None:
    weights.sum()


def _median(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return round(statistics.median(times[1:]), 3)


if __name__ == "__main__":
    main()
