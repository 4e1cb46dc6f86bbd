"""Load on ``flagai serve``: many connections with mixed requests; each answer is compared with the one it has alone.

    PYTHONPATH=src:. python benchmarks/serve.py --out results.json                 # 200 connections, 20,000 requests
    PYTHONPATH=src:. python benchmarks/serve.py --requests 2000 --connections 50   # a tenth of it

The same requests go through the Python API in batches, in turns with the server, which is a process of its own.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import flagai
from benchmarks._measure import machine, versions
from benchmarks._serve_clients import Row, ask, cpu_seconds, server

GLM, MINILM = "GLM-mini-ch", "all-MiniLM-L6-v2"
SHARES = {"embed": 0.6, "poem": 0.2, "continue": 0.15, "fill": 0.05}
PATHS = {"embed": "/v1/embeddings", "poem": "/v1/poem", "continue": "/v1/completions", "fill": "/v1/fill"}
WORDS = (
    "man",
    "woman",
    "plays",
    "sings",
    "reads",
    "guitar",
    "piano",
    "book",
    "river",
    "city",
    "blue",
    "quiet",
    "large",
)
SIGNS = "春江花月夜秋思山水云雨风雪明清远近江南北东西楼台柳梅竹松"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Asked:
    """A request: what kind, and what differs between those of a kind."""

    kind: str
    text: str
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        """What the server gets."""
        if self.kind == "embed":
            return {"model": MINILM, "input": self.text, "encoding_format": "base64"}
        if self.kind == "poem":
            return {"text": self.text, "seed": self.seed, "max_new_tokens": 24}
        if self.kind == "continue":
            return {"model": GLM, "prompt": self.text, "max_tokens": 16, "temperature": 0}
        return {"text": self.text, "max_new_tokens": 8, "num_beams": 2}


def requests(count: int) -> list[Asked]:
    """Mixed requests by chance; 100 of each kind differ, so that each has its answer alone computed once."""
    chance = random.Random(1)

    def made(kind: str) -> Asked:
        if kind == "embed":
            return Asked(kind, " ".join(chance.choices(WORDS, k=chance.randint(4, 30))), 0)
        signs = "".join(chance.choices(SIGNS, k=chance.randint(2, 6)))
        text = {"poem": signs, "continue": f"{signs}，", "fill": f"{signs}，[sMASK]。"}[kind]
        return Asked(kind, text, chance.randint(0, 9))

    pools = {kind: [made(kind) for _ in range(100)] for kind in SHARES}
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=count)
    return [chance.choice(pools[kind]) for kind in kinds]


class PythonApi:
    """The same models in this process."""

    def __init__(self) -> None:
        self.poet = flagai.load("poetry", GLM, device="cpu")
        self.writer = flagai.load("lm", GLM, device="cpu")
        self.filler = flagai.load("masklm", GLM, device="cpu")
        self.embed = flagai.load("embedding", MINILM, device="cpu")

    def answers(self, asked: Sequence[Asked]) -> list[Any]:
        """Answers to requests, those of a kind in one call."""
        found: dict[int, Any] = {}
        for kind in SHARES:
            rows = [row for row, each in enumerate(asked) if each.kind == kind]
            texts, seeds = [asked[row].text for row in rows], [asked[row].seed for row in rows]
            found.update(zip(rows, self._of_kind(kind, texts, seeds) if rows else (), strict=True))
        return [found[row] for row in range(len(asked))]

    def _of_kind(self, kind: str, texts: list[str], seeds: list[int]) -> Any:
        if kind == "embed":
            return self.embed(texts, normalize=True)
        if kind == "poem":
            return self.poet(texts, seeds=seeds, max_new_tokens=24)
        if kind == "continue":
            return self.writer(texts, max_new_tokens=16, input_max_length=None, truncation=False)
        return [found[0].text for found in self.filler(texts, out_max_length=8, beam_size=2)]


def same(answer: dict[str, Any], kind: str, wanted: Any) -> bool:
    """Whether an answer of the server is the one that the Python API gives to the text alone."""
    if kind == "embed":
        vector = torch.frombuffer(bytearray(base64.b64decode(answer["data"][0]["embedding"])), dtype=torch.float32)
        return torch.allclose(vector, wanted, atol=TOLERANCE, rtol=0)
    if kind == "continue":
        return bool(answer["choices"][0]["text"] == wanted)
    best = answer["results"][0]
    return bool((best["fillings"] if kind == "fill" else best["answers"])[0]["text"] == wanted)


def report(rows: Sequence[Row], asked: Sequence[Asked], wanted: dict[Asked, Any]) -> dict[str, Any]:
    """Errors, wrong answers and latencies."""
    errors = [status for _, status, _ in rows if status != 200]
    wrong = [
        each
        for each, (_, status, body) in zip(asked, rows, strict=True)
        if status == 200 and not same(json.loads(body), each.kind, wanted[each])
    ]
    by_kind = defaultdict(list)
    for each, (seconds, _, _) in zip(asked, rows, strict=True):
        by_kind[each.kind].append(seconds)
    latencies = {kind: statistics.quantiles(seconds, n=100) for kind, seconds in by_kind.items()}
    return {
        "errors": len(errors),
        "wrong": len(wrong),
        "p50": {kind: found[49] for kind, found in latencies.items()},
        "p99": {kind: found[98] for kind, found in latencies.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked, api = requests(options.requests), PythonApi()
    once = list(dict.fromkeys(asked))
    wanted = {each: api.answers([each])[0] for each in once}
    print(f"{len(asked)} requests, {len(once)} of them different, over {options.connections} connections", flush=True)
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "requests": len(asked), "rounds": []}
    calls = [(PATHS[each.kind], each.body) for each in asked]
    with server(GLM, MINILM, "--device", "cpu") as (host, port, process):
        for _ in range(options.rounds):
            begin, used = time.perf_counter(), cpu_seconds(process)
            rows = asyncio.run(ask(host, port, calls, options.connections))
            served, server_cpu = time.perf_counter() - begin, cpu_seconds(process) - used
            begin, used = time.perf_counter(), time.process_time()
            api.answers(asked)
            alone, python_cpu = time.perf_counter() - begin, time.process_time() - used
            found = report(rows, asked, wanted) | {"server_seconds": served, "python_seconds": alone}
            found |= {"share": alone / served, "server_cpu": server_cpu, "python_cpu": python_cpu}
            found |= {"share_of_cpu": python_cpu / server_cpu, "requests_per_second": len(asked) / served}
            result["rounds"].append(found)
            print(json.dumps(found), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
