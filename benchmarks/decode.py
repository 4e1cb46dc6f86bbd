"""Decoding and encoding on one GPU: this library, transformers, and what the memory allows.

    PYTHONPATH=src:. python benchmarks/decode.py --out decode.json [--quick] [--only glm,t5] [--peers]

Models have random weights and are made on the GPU. What is measured: a step of GLM-10b's shape (greedy, sampling and
4 beams; by kernels of this library, by torch's within CUDA graphs, and step by step), the time to the first token of
a fresh model, T5-base with batch 8, GPT-2 124M, BERT-base embeddings without padding, the products one by one, and
whether fast answers equal the plain ones. An item that fails is noted, and the rest goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import _decode_kernels as kernels
from benchmarks import _decode_lookup as lookups
from benchmarks._decode_peers import clocked, gpt2_peer, t5_peer
from benchmarks._measure import machine, versions
from flagai.generation import Decoding, Prompt, generate, static, stream
from flagai.model.bert_model import BertForEmbedding
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.packing import packs
from flagai.model.t5_model import T5Model

GLM_10B = {
    "num_layers": 48, "vocab_size": 50048, "hidden_size": 4096, "num_attention_heads": 64, "max_sequence_length": 1024,
}  # fmt: skip
GPT2_124M = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "bos_token_id": 1}
T5_BASE = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
    "num_heads": 12, "decoder_start_token_id": 0,
}  # fmt: skip
BERT_BASE = {
    "model_type": "bert", "vocab_size": 21128, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512,
}  # fmt: skip
_HALF = torch.bfloat16
_MARK = "found "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no other tilings")
    parser.add_argument("--only", default="", help="names of items, with commas between")
    parser.add_argument("--peers", action="store_true", help="also transformers with 10B parameters")
    parser.add_argument("--inside", action="store_true", help="run in this process and print the result as JSON")
    parser.add_argument("--limit", type=float, default=100, help="seconds that one item may take")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(ITEMS)
    if options.inside:
        print(_MARK + json.dumps(attempt(ITEMS[chosen[0]], options)), flush=True)
        return
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "gpu": torch.cuda.get_device_name()}
    began = time.perf_counter()
    for name in chosen:
        start = time.perf_counter()
        report[name] = apart(name, options)
        print(f"== {name}: {time.perf_counter() - start:.1f} s, {time.perf_counter() - began:.1f} in all", flush=True)
        print(json.dumps(report[name], indent=1), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


def apart(name: str, options: Any) -> Any:
    """Run an item in a process of its own: what breaks there breaks nothing else."""
    flags = [flag for flag, given in (("--quick", options.quick), ("--peers", options.peers)) if given]
    command = [sys.executable, __file__, "--inside", "--only", name, *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
    except subprocess.TimeoutExpired as error:
        printed = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
        return {"error": f"not done after {options.limit} s", "notes": (printed or "")[-6000:]}
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    return json.loads(lines[-1].removeprefix(_MARK)) if lines else {"error": done.stderr[-1500:]}


def attempt(work: Callable[..., Any], *given: Any) -> Any:
    """What some work finds, or how it fails."""
    try:
        return work(*given)
    except Exception:  # noqa: BLE001 - one failure must not end the run
        return {"error": traceback.format_exc()[-1200:]}


def noted(found: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """Put a finding among the others, and say so: a run that is cut short keeps it."""
    found[name] = attempt(work)
    print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)


def made(cls: Any, config: dict[str, Any], dtype: torch.dtype = _HALF) -> Any:
    """A model with random weights, made on the GPU."""
    model = cls.on_meta(cls.config_class.from_dict(config)).to(dtype)
    torch.manual_seed(0)
    model._drawn(torch.device("cuda"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


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
    return {"ms a step": round(1e3 * seconds, 4), "steps a second": round(1 / seconds, 1)}


def prompt(count: int, vocabulary: int, seed: int = 0) -> Prompt:
    ids = torch.randint(10, vocabulary, [count], generator=torch.Generator().manual_seed(seed))
    return Prompt(tuple(ids.tolist()))


def profile(model: Any, prompts: list[Prompt], **given: Any) -> list[dict[str, Any]]:
    """Where the time of a replayed step goes: the kernels that take the most."""
    decoding = Decoding(max_new_tokens=40, **given)
    generate(model, prompts, decoding)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        generate(model, prompts, decoding)
        torch.cuda.synchronize()
    entries = sorted(seen.key_averages(), key=lambda entry: -entry.self_device_time_total)[:14]
    return [
        {
            "kernel": entry.key[:90],
            "calls": entry.count,
            "us each": round(entry.self_device_time_total / entry.count, 2),
            "ms in all": round(entry.self_device_time_total / 1e3, 3),
        }
        for entry in entries
    ]


def limits(options: Any) -> dict[str, Any]:
    bandwidth = kernels.copy_bandwidth()
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=_HALF) for _ in range(2))
    seconds = kernels.replayed(lambda: [left @ right for _ in range(4)] and None) / 4
    return {"copy TB/s": round(bandwidth / 1e12, 3), "matmul TFLOP/s": round(2 * 8192**3 / seconds / 1e12)}


def equal(options: Any) -> dict[str, Any]:
    """Whether fast answers are the plain ones; sizes are such that the kernels are used."""
    found: dict[str, Any] = {}
    config = {**GLM_10B, "num_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 5000}
    for dtype in (torch.float32, _HALF):
        model = made(GLMModel, config, dtype)
        prompts = [prompt(11, 5000, seed) for seed in range(2)]
        for name, given in (
            ("greedy", {}),
            ("beams", {"num_beams": 4}),
            ("sampling", {"do_sample": True, "seed": 3, "n_best": 2, "top_k": 50, "top_p": 0.9}),
        ):
            decoding = [Decoding(max_new_tokens=40, **given, cuda_graphs=graphs) for graphs in (True, False)]
            fast, plain = (generate(model, prompts, each) for each in decoding)
            again = generate(model, prompts, decoding[0])
            found[f"{dtype} {name}"] = {
                "same ids": [row[0].ids for row in fast] == [row[0].ids for row in plain],
                "same again": [row[0].ids for row in fast] == [row[0].ids for row in again],
                "scores": [round(rows[0][0].score, 3) for rows in (fast, plain)],
                "kernels": bool(static.steps_of(model)._ready and static.steps_of(model)._ready[-1].cache.faster),
            }
        if dtype is not torch.float32:
            found[f"{dtype} logits"] = logits_difference(model, prompts[0])
    return found


def logits_difference(model: Any, text: Prompt) -> dict[str, float]:
    """How far step logits of the kernels and of torch's plain path lie from float32's, over the same ids."""
    seen: dict[str, list[torch.Tensor]] = {}
    ids = [*text.ids, *prompt(24, model.config.vocab_size, 9).ids]

    def forced(name: str, subject: Any, graphs: bool) -> torch.Tensor:
        seen[name] = []

        def follow(history: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen[name].append(scores.float().clone())
            place = len(text.ids) + len(seen[name]) - 1
            return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor(ids[place], device="cuda"), 0.0)

        count = len(ids) - len(text.ids)
        decoding = Decoding(max_new_tokens=count, cuda_graphs=graphs)
        generate(subject, [text], decoding, logits_processors=[follow])
        return torch.stack(seen[name])

    fast, plain = forced("fast", model, True), forced("plain", model, False)
    exact = forced("exact", model.float(), False)
    return {"kernels": float((fast - exact).abs().max()), "plain": float((plain - exact).abs().max())}


def glm(options: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model, text = made(GLMModel, GLM_10B), [prompt(32, 50000)]
    found["GB"] = round(sum(parameter.nbytes for parameter in model.parameters()) / 1e9, 2)
    noted(found, "a fresh model, ms", lambda: arrivals(model, text))
    noted(found, "the same again, ms", lambda: arrivals(model, text))
    short, long = (32, 96) if options.quick else (32, 160)
    beams: dict[str, Any] = {"num_beams": 4}
    batch = [prompt(32, 50000, seed) for seed in range(8)]
    noted(found, "greedy", lambda: speeds(model, text, short, long))
    noted(found, "beams 4", lambda: speeds(model, text, short, long, **beams))
    noted(found, "batch 8", lambda: speeds(model, batch, short, long, rounds=1))
    with replaced(model, static, "faster_blocks", lambda *_: ()):
        noted(found, "greedy, torch's products", lambda: speeds(model, text, short, long, rounds=1))
        noted(found, "beams 4, torch's products", lambda: speeds(model, text, short, long, rounds=1, **beams))
        noted(found, "batch 8, torch's products", lambda: speeds(model, batch, short, long, rounds=1))
    sampling = {"do_sample": True, "top_k": 50, "top_p": 0.9, "seed": 1}
    noted(found, "sampling", lambda: speeds(model, text, short, long, rounds=1, **sampling))
    noted(found, "greedy, step by step", lambda: speeds(model, text, 8, 24, rounds=1, cuda_graphs=False))
    noted(found, "profile", lambda: profile(model, text))
    noted(found, "profile of beams", lambda: profile(model, text, **beams))
    found["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


@contextmanager
def replaced(model: Any, module: Any, name: str, value: Any) -> Iterator[None]:
    """Another way of computing, in the body; recordings of before are not used there, nor its own afterwards."""
    kept = getattr(module, name)
    setattr(module, name, value)
    static.steps_of(model)._ready.clear()
    try:
        yield
    finally:
        setattr(module, name, kept)
        static.steps_of(model)._ready.clear()


def arrivals(model: Any, text: list[Prompt]) -> dict[str, float]:
    """When the tokens of an answer come."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    times = [time.perf_counter() - start for event in stream(model, text, Decoding(max_new_tokens=20)) if event.ids]
    return {f"token {place}": round(1e3 * times[place - 1], 1) for place in (1, 2, 3, 4, 20) if place <= len(times)}


def gpt2(options: Any) -> dict[str, Any]:
    model, text = made(GPT2Model, GPT2_124M), [prompt(32, 50000)]
    found: dict[str, Any] = {}
    noted(found, "greedy", lambda: speeds(model, text, 64, 320))
    noted(found, "beams 4", lambda: speeds(model, text, 64, 192, num_beams=4))
    noted(found, "float32 greedy", lambda: speeds(made(GPT2Model, GPT2_124M, torch.float32), text, 64, 192))
    noted(found, "step by step", lambda: speeds(model, text, 16, 48, rounds=1, cuda_graphs=False))
    noted(found, "transformers", lambda: gpt2_peer(text[0], GPT2_124M, 16, 64))
    noted(found, "profile", lambda: profile(model, text)[:8])
    return found


def peer10b(options: Any) -> dict[str, Any]:
    if not options.peers:
        return {"left out": "run with --peers"}
    config = {"vocab_size": 50048, "n_embd": 4096, "n_layer": 48, "n_head": 64, "bos_token_id": 1}
    return gpt2_peer(prompt(32, 50000), config, 8, 40)


def t5(options: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    texts = [prompt(256, 32000, seed) for seed in range(8)]
    for dtype in (_HALF, torch.float16, torch.float32):
        model = made(T5Model, T5_BASE, dtype)
        noted(found, str(dtype), lambda model=model: speeds(model, texts, 32, 96))
    model = made(T5Model, T5_BASE)
    noted(found, "beams 4", lambda: speeds(model, texts, 32, 96, num_beams=4))
    noted(found, "step by step", lambda: speeds(model, texts, 8, 24, rounds=1, cuda_graphs=False))
    noted(found, "profile", lambda: profile(model, texts))
    noted(found, "transformers", lambda: t5_peer(texts, T5_BASE))
    return found


@torch.inference_mode()
def bert(options: Any) -> dict[str, Any]:
    """Sentences a second from ids: log-normal lengths, 5 to 128, mean 30.5."""
    model = made(BertForEmbedding, BERT_BASE)
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(16384, generator=generator) * 0.65 + 3.2).exp().round().clamp(5, 128).long().tolist()
    texts = [torch.randint(1, 21128, [length], generator=generator).tolist() for length in lengths]

    def embed() -> torch.Tensor:
        means = [(pack.indices, pack.row.mean(model(**pack.arguments)["hidden_states"])) for pack in
                 packs(texts, device=torch.device("cuda"))]  # fmt: skip
        order = torch.tensor([index for indices, _ in means for index in indices]).argsort()
        return torch.cat([rows for _, rows in means])[order.cuda()].cpu()

    ready = list(packs(texts, device=torch.device("cuda")))

    def device_only() -> None:
        for pack in ready:
            pack.row.mean(model(**pack.arguments)["hidden_states"])

    embed(), device_only()
    whole, device = (statistics.median(clocked(work) for _ in range(3)) for work in (embed, device_only))
    tokens, width = sum(lengths), 768
    flops = 2 * tokens * 12 * (4 * width * width + 2 * width * 3072)
    found = {"mean length": round(tokens / 16384, 2), "from ids, sentences/s": round(16384 / whole)}
    found |= {"packs on the device, sentences/s": round(16384 / device), "TFLOP/s": round(flops / device / 1e12)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        device_only()
        torch.cuda.synchronize()
    entries = sorted(seen.key_averages(), key=lambda entry: -entry.self_device_time_total)[:10]
    found["profile, ms"] = {entry.key[:80]: round(entry.self_device_time_total / 1e3, 2) for entry in entries}
    return found


def kernel_table(options: Any) -> dict[str, Any]:
    rows = (1, 4) if options.quick else (1, 4, 8)
    return {"products": kernels.table(rows, tune=not options.quick), "attention": attempt(kernels.attention_table)}


def lookup(options: Any) -> dict[str, Any]:
    return lookups.table(
        made, prompt, {"glm": (GLMModel, GLM_10B), "gpt2": (GPT2Model, GPT2_124M), "t5": (T5Model, T5_BASE)}
    )


ITEMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "limits": limits,
    "equal": equal,
    "glm": glm,
    "gpt2": gpt2,
    "t5": t5,
    "bert": bert,
    "lookup": lookup,
    "kernels": kernel_table,
    "peer10b": peer10b,
}

if __name__ == "__main__":
    main()
