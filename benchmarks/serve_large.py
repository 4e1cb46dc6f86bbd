"""Load on ``flagai serve`` with a GLM of GLM-large's shape, beside the scheduler of the server by itself.

    PYTHONPATH=src:. python benchmarks/serve_large.py --out serve-large.json   # one GPU, 16 cores: 3 minutes
    PYTHONPATH=src:. python benchmarks/serve_large.py --tiny                   # a dry run on a CPU

The same requests go to a scheduler in a process of its own, as many at a time as the server has connections, and all
at once; then to the server from several processes of clients. Weights are random, in bfloat16; prompts are Chinese
characters. Answers are compared in float32, each with the one that its text has alone.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._items import MARK, apart, made
from benchmarks._many_common import POSITIONS, VOCABULARY, Plan, large, lengths, percentile, significant, tiny
from benchmarks._measure import machine, versions
from benchmarks._serve_clients import Call, Clients, Row, cpu_seconds, server
from flagai.catalog.packages import find_model
from flagai.data.tokenizer import Tokenizer
from flagai.generation import Scheduler
from flagai.model import GLMForSeq2Seq
from flagai.serve.openai_calls import COMPLETION, writing_options
from flagai.serve.served import ServedModel
from flagai.serve.work import WorkSpec

NAME = "glm-shape"
PATH = "/v1/completions"
_ROUNDS = 2  # the better one counts, on both sides
_SIGNS = "春江花月夜秋思山水云雨风雪明清远近江南北东西楼台柳梅竹松人天地日星光"


def write_model(folder: Path, plan: Plan) -> None:
    """A GLM with random weights, whose vocabulary is that of GLM-mini-ch and as many further words as it has rows."""
    mini = find_model("GLM-mini-ch")
    assert mini is not None
    more = plan.config[VOCABULARY] - Tokenizer.from_folder(mini).vocab_size
    made(GLMForSeq2Seq, plan.config, plan.dtype, plan.device).save_pretrained(folder)
    words = (mini / "vocab.txt").read_text(encoding="utf-8")
    further = "".join(f"word{number}\n" for number in range(more))
    (folder / "vocab.txt").write_text(f"{words.rstrip()}\n{further}", encoding="utf-8")


def bodies(count: int, longest: int, new: int) -> list[dict[str, Any]]:
    """Mixed requests: two thirds greedy, one third sampled, texts and answers of log-normal lengths."""
    chance = random.Random(0)
    texts = lengths(count, 80, 0.8, 4, longest, chance)
    answers = lengths(count, 48, 0.8, 5, new, chance)
    return [
        {
            "prompt": "".join(chance.choices(_SIGNS, k=text)),
            "max_tokens": answer,
            "min_tokens": answer,
            **({"temperature": 0} if number % 3 else {"temperature": 1, "top_k": 20, "seed": number}),
        }
        for number, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]


def calls(wanted: list[dict[str, Any]]) -> list[Call]:
    """The requests of the server's clients."""
    return [(PATH, body) for body in wanted]


class Alone:
    """The scheduler of the server, without a server."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._model = ServedModel(f"{folder}:lm", None, device=None, dtype=dtype)

    def requests(self, wanted: list[dict[str, Any]]) -> list[Any]:
        """What the server hands to its scheduler."""
        found = []
        for body in wanted:
            fields = {name: field.default for name, field in COMPLETION.items()} | body
            options = writing_options(fields, [body.get("seed", 0)])
            found += self._model.build(WorkSpec("lm", (body["prompt"],), options, generates=True))
        return found

    def rate(self, wanted: list[dict[str, Any]], most: int) -> float:
        """Tokens a second, with so many requests under way at most."""
        asked = [each.request for each in self.requests(wanted)]
        coming = iter(asked)
        with Scheduler(self._model.model) as scheduler:
            begin = time.perf_counter()
            scheduler.submit(*islice(coming, most))
            while scheduler.has_work:
                done = sum(request.done for request in scheduler.step())
                if done:
                    scheduler.submit(*islice(coming, done))
            seconds = time.perf_counter() - begin
        return sum(len(request.hypotheses[0].ids) for request in asked) / seconds

    def texts(self, wanted: list[dict[str, Any]]) -> list[str]:
        """Each answer, written alone."""
        found = []
        for asked in self.requests(wanted):
            with Scheduler(self._model.model) as scheduler:
                scheduler.submit(asked.request)
                while scheduler.has_work:
                    scheduler.step()
            found.append(asked.answers()[0].written)
        return found


def alone(folder: Path, wanted: list[dict[str, Any]], connections: int, checks: int) -> dict[str, Any]:
    """Tokens a second of the scheduler, and answers written alone in float32."""
    scheduler = Alone(folder, "bfloat16")
    found: dict[str, Any] = {}
    for name, most in (("as many as connections", connections), ("all at once", len(wanted))):
        scheduler.rate(wanted[: len(wanted) // 4], most)  # compiles, and records steps
        found[name] = significant(max(scheduler.rate(wanted, most) for _ in range(_ROUNDS)))
    return found | {"texts": Alone(folder, "float32").texts(wanted[:checks])}


def report(rows: list[Row]) -> dict[str, Any]:
    """Errors and latencies."""
    seconds = [each for each, _, _ in rows]
    return {
        "errors": sum(status != 200 for _, status, _ in rows),
        "p50": significant(statistics.median(seconds)),
        "p99": significant(percentile(seconds, 0.99)),
    }


def written(row: Row) -> Any:
    """The choice and the number of tokens of an answer."""
    found = json.loads(row[2])
    return found["choices"][0]["text"], found["usage"]["completion_tokens"]


def served(folder: Path, wanted: list[dict[str, Any]], options: Any, device: str) -> dict[str, Any]:
    """Tokens a second of the server, after a quarter of the requests has warmed it up."""
    clients = Clients(options.clients)
    arguments = (f"{folder}:lm", "--device", device, "--dtype", "bfloat16", "--http-processes", str(options.http))
    with server(*arguments) as (host, port, process):
        clients.ask(host, port, calls(wanted[: len(wanted) // 4]), options.connections)
        rounds = []
        for _ in range(_ROUNDS):
            begin, used = time.perf_counter(), cpu_seconds(process)
            rows = clients.ask(host, port, calls(wanted), options.connections)
            seconds, cpu = time.perf_counter() - begin, cpu_seconds(process) - used
            tokens = sum(written(row)[1] for row in rows if row[1] == 200)
            rounds.append(
                report(rows)
                | {"tokens/s": significant(tokens / seconds), "requests/s": significant(len(rows) / seconds)}
                | {"seconds": significant(seconds), "CPU seconds": significant(cpu)}
            )
    return max(rounds, key=lambda each: each["tokens/s"]) | {"errors": sum(each["errors"] for each in rounds)}


def equal(folder: Path, wanted: list[dict[str, Any]], texts: list[str], options: Any, device: str) -> dict[str, Any]:
    """How many answers of the server differ, in float32, from those that were written alone."""
    asked = wanted[: len(texts)]
    with server(f"{folder}:lm", "--device", device, "--dtype", "float32") as (host, port, _):
        rows = Clients(1).ask(host, port, calls(asked), options.connections)
    wrong = sum(written(row)[0] != text for row, text in zip(rows, texts, strict=True) if row[1] == 200)
    return report(rows) | {"requests": len(asked), "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--checks", type=int, default=200, help="answers that are compared")
    parser.add_argument("--clients", type=int, default=4, help="processes of clients")
    parser.add_argument("--http", type=int, default=2, help="processes of the server that speak HTTP")
    parser.add_argument("--tiny", action="store_true", help="a few requests on a CPU")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", action="store_true")
    parser.add_argument("--only", type=Path, help="the folder of the model; with --inside")
    options = parser.parse_args()
    plan = replace(tiny(), config=tiny().config | {VOCABULARY: 6272, POSITIONS: 128}) if options.tiny else large()
    if options.tiny:
        options.requests, options.connections, options.checks, options.clients = 48, 8, 12, 2
    wanted = bodies(options.requests, min(512, plan.config[POSITIONS] // 2), min(200, plan.config[POSITIONS] // 4))
    if options.inside:
        print(MARK + json.dumps(alone(options.only, wanted, options.connections, options.checks)), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / NAME
        write_model(folder, plan)
        flags = [f"--requests={options.requests}", f"--connections={options.connections}"]
        flags += ["--tiny"] * options.tiny + [f"--checks={options.checks}"]
        own = apart(Path(__file__), str(folder), flags, 300)
        if "texts" not in own:
            raise SystemExit(f"The scheduler by itself has failed: {own}")
        texts = own.pop("texts")
        found = {"scheduler, tokens/s": own, "server": served(folder, wanted, options, plan.device)}
        share = found["server"]["tokens/s"] / own["as many as connections"]
        found |= {"share of the scheduler": round(share, 3)}
        print(json.dumps(found, indent=1), flush=True)
        found["in float32"] = equal(folder, wanted, texts, options, plan.device)
    print(json.dumps(found["in float32"], indent=1), flush=True)
    if options.out is not None:
        report = {"machine": machine(), "versions": versions(), "connections": options.connections, **found}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
