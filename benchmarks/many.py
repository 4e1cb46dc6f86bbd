"""Many texts: batches, samples, beams, a stream of requests and titles, beside transformers and the limit.

    PYTHONPATH=src:. python benchmarks/many.py --out many.json                     # one GPU: 10 minutes, 6 with peers
    PYTHONPATH=src:. python benchmarks/many.py --rows batch,stream --peers no      # some rows, without transformers
    PYTHONPATH=src:. python benchmarks/many.py --tiny                              # a dry run on a CPU

A GLM of GLM-large's shape (24 layers of 1024) with random bf16 weights, on one GPU; rows are processes of their own.

    single     one text: a step after 20, 300 and 800 tokens; a call up to its first token
    batch      greedy answers of 64 tokens to 16 to 512 texts of 64 to 256 tokens, one call; the peak of the memory
    samples    8 to 64 samples of one text, and how the time grows with their number and length
    beams      4 beams, 64 texts
    stream     4,000 requests of mixed lengths, all at once, and arriving at random at 80 % of the fixed batch's rate
    titles     GLM-mini-ch, 4 beams, 16 to 1,024 texts a call
    equal      mixed requests in float32, alone and among others: 0 differences (`--full`: 10,000 requests)
    profile    the kernels of the batches; only if it is named
    peers      transformers' GPT-2 of the same shape as it runs by default, and its generate_batch
    tuned      the same sorted by length, with a static cache and the forward pass compiled
    file       a file of 2,000 titles beside transformers, on a CPU

The limit is the time of a copy of the weights and of all keys and values that are read.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import _many_peers as peers
from benchmarks._items import MARK, apart, attempt
from benchmarks._many_common import Plan, large, on_cpu, tiny
from benchmarks._many_equal import equal
from benchmarks._many_rows import batch, beams, profile, samples, single
from benchmarks._many_stream import stream
from benchmarks._many_titles import file, titles
from benchmarks._measure import machine, versions

ROWS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "single": single,
    "batch": batch,
    "samples": samples,
    "beams": beams,
    "stream": stream,
    "titles": titles,
    "equal": equal,
    "peers": peers.eager,
    "tuned": peers.tuned,
    "file": file,
    "profile": profile,
}
_PEERS = ("peers", "tuned")
_GPU = ("single", "batch", "samples", "beams", "stream", "titles", "equal", *_PEERS)
_CPU = ("equal", "file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "--json", type=Path, help="write all figures as JSON, row by row")
    parser.add_argument("--rows", "--only", default="", help="names, with commas between")
    parser.add_argument("--peers", choices=("yes", "no"), default="yes", help="whether transformers runs too")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything on a CPU")
    parser.add_argument("--full", action="store_true", help="equal: 10,000 requests")
    parser.add_argument("--threads", type=int, help="of a CPU; default 2, and 1 for --tiny")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a row may take")
    parser.add_argument("--inside", action="store_true", help="run in this process and print the result as JSON")
    options = parser.parse_args()
    gpu = torch.cuda.is_available() and not options.tiny
    plan = tiny() if options.tiny else large() if gpu else on_cpu()
    plan = replace(plan, checks=10_000) if options.full else plan
    threads = options.threads or (1 if options.tiny else 2)
    if not gpu:
        torch.set_num_threads(threads)
    if options.inside:
        print(MARK + json.dumps(attempt(ROWS[options.rows], plan)), flush=True)
        return
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "many": {}}
    if gpu:
        report["gpu"] = torch.cuda.get_device_name()
    for name in chosen(options, gpu=gpu):
        begin = time.perf_counter()
        report["many"][name] = attempt(ROWS[name], plan) if options.tiny else in_process(name, options)
        print(f"== {name}: {time.perf_counter() - begin:.1f} s", flush=True)
        print(json.dumps(report["many"][name], indent=1), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def chosen(options: Any, *, gpu: bool) -> list[str]:
    """The rows that suit the machine, or those that are named and their peers."""
    names = list(filter(None, options.rows.split(",")))
    if not names:
        names = [name for name in ROWS if name != "profile"] if options.tiny else list(_GPU if gpu else _CPU)
    elif gpu and options.peers == "yes":
        names += [name for name in _PEERS if name not in names]
    return [name for name in names if options.peers == "yes" or name not in _PEERS]


def in_process(name: str, options: Any) -> Any:
    flags = ["--full"] * options.full + (["--threads", str(options.threads)] if options.threads else [])
    return apart(Path(__file__), name, flags, options.limit)


if __name__ == "__main__":
    main()
