"""One model on several devices: time and memory of loading, and tokens per second; see benchmarks/README.md."""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _measure

_WORKER = Path(__file__).with_name("_parallel_worker.py")
_FILES = Path(__file__).with_name("_parallel_files.py")
_SYSTEMS = ("flagai", "transformers")
# layers, width, heads, vocabulary: GLM-10b, a quarter of it, one for CPUs, one for comparing, and a dry run.
_SIZES = {
    "full": (48, 4096, 64, 50304),
    "quick": (12, 4096, 64, 50304),
    "medium": (24, 2048, 16, 50304),
    "small": (4, 512, 8, 5000),
    "dry": (2, 64, 4, 503),
}


def config(system: str, size: str) -> dict[str, Any]:
    """A GLM, or a Llama of as many parameters."""
    layers, width, heads, vocabulary = _SIZES[size]
    if system == "flagai":
        return {
            "model_type": "glm", "num_layers": layers, "vocab_size": vocabulary, "hidden_size": width,
            "num_attention_heads": heads, "max_sequence_length": 1024,
        }  # fmt: skip
    # GLM's block has 12 width^2 parameters, Llama's 4 width^2 + 3 width * intermediate.
    intermediate = -(-8 * width // 3 // 64) * 64
    return {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }  # fmt: skip


def prepare(scratch: Path, systems: list[str], uses: dict[str, str], cuda: int) -> dict[str, dict[str, Path]]:
    """Write the checkpoints that are not there, one process a system; for each system and use, the folder."""
    folders = {system: {use: scratch / f"{system}-{size}" for use, size in uses.items()} for system in systems}
    writers = []
    for number, system in enumerate(systems):
        device = f"cuda:{number % cuda}" if cuda else "cpu"
        tasks = [
            {"system": system, "folder": str(folder), "config": config(system, uses[use]), "device": device}
            for use, folder in folders[system].items()
            if not (folder / "complete").exists()
        ]
        for task in tasks:
            shutil.rmtree(task["folder"], ignore_errors=True)
        if tasks:
            writers.append(subprocess.Popen([sys.executable, str(_FILES), json.dumps(tasks)]))
    codes = [writer.wait() for writer in writers]
    if any(codes):
        raise RuntimeError("a checkpoint could not be written")
    for places in folders.values():
        for folder in places.values():
            (folder / "complete").touch()
    if writers:
        os.sync()  # what is still being written would slow down whoever is measured first
    return folders


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def measure(system: str, arguments: argparse.Namespace, folders: dict[str, Path]) -> dict[str, Any]:
    """Load and decode with one system."""
    task = {
        "system": system, "ranks": arguments.ranks, "port": free_port(), "device": arguments.device,
        "rounds": arguments.rounds, "tokens": arguments.tokens, "variants": arguments.variants, "patience": 60,
        "decode": not arguments.loads,
        **{use: str(folder) for use, folder in folders.items()},
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_measure.Worker(_WORKER, task | {"rank": rank})) for rank in range(arguments.ranks)
        ]
        for worker in workers:
            worker.wait_until_ready()
        before = [worker.memory()["RssAnon"] for worker in workers]
        seconds, peaks, told = [], [], []
        for _ in range(arguments.rounds):
            with contextlib.ExitStack() as sampled:
                samples = [sampled.enter_context(worker.peak()) for worker in workers]
                for worker in workers:
                    worker.go()
                told.append([worker.result() for worker in workers])
            seconds.append(max(rank["seconds"] for rank in told[-1]))
            peaks.append([sample["RssAnon"] - start for sample, start in zip(samples, before, strict=True)])
        held = [worker.memory() for worker in workers]
        for worker in workers:
            worker.go()
        decoded = [worker.result() for worker in workers]
        leaving = [worker.leave(30) for worker in workers]
    return {
        "load_s": round(statistics.median(seconds), 3),
        "load_all_s": [round(value, 3) for value in seconds],
        "phases_of_last_load": [[f"in all: {1e3 * rank['own']:.0f} ms", *rank["phases"]] for rank in told[-1]],
        "anonymous_above_start_peak_MB": [round(max(rank) / 1e6) for rank in zip(*peaks, strict=True)],
        "anonymous_at_start_MB": [round(value / 1e6) for value in before],
        "anonymous_held_MB": [round(memory["RssAnon"] / 1e6) for memory in held],
        "resident_held_MB": [round(memory["VmRSS"] / 1e6) for memory in held],
        "weights_GB_a_rank": round(decoded[0]["bytes"] / 1e9, 4),
        "seconds_to_exit": leaving,
        "decode": decoded[0]["decode"],
        **_limit(decoded[0]),
    }


def _limit(found: dict[str, Any]) -> dict[str, float]:
    bandwidth = found["copy_bytes_s"]
    if not bandwidth:
        return {}
    limit = {"bandwidth_limit_tokens_s": round(bandwidth / found["bytes"], 1)}
    return {"device_copy_TB_s": round(bandwidth / 1e12, 2)} | limit


def compare(results: dict[str, Any]) -> dict[str, Any]:
    """Flagai beside transformers, as ratios."""
    if not all("load_s" in results.get(system, {}) for system in _SYSTEMS):
        return {}
    ours, peer = (results[system] for system in _SYSTEMS)
    found = {"load_times_faster": round(peer["load_s"] / ours["load_s"], 2)}
    for name, rate in ours["decode"].items():
        if "tokens_s" in rate and "tokens_s" in peer["decode"].get("greedy", {}):
            found[f"{name}_times_faster"] = round(rate["tokens_s"] / peer["decode"]["greedy"]["tokens_s"], 2)
    return found


def main() -> None:
    import torch

    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--size", choices=_SIZES, default="full" if cuda else "dry")
    parser.add_argument("--quick", action="store_true", help="a quarter of the model, one round")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="loads of each system")
    parser.add_argument("--tokens", type=int, default=96, help="tokens to decode")
    parser.add_argument("--variants", action="store_true", help="also load and decode in other ways")
    parser.add_argument("--loads", action="store_true", help="no decoding")
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS))
    parser.add_argument("--scratch", type=Path, help="where checkpoints are kept; default a temporary folder")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
        arguments.size = "quick" if cuda else "dry"
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        results: dict[str, Any] = {}
        uses = {"tiny": "dry", "small": "small", "folder": arguments.size}
        cuda_devices = torch.cuda.device_count() if arguments.device == "cuda" else 0
        folders = prepare(scratch, arguments.systems, uses, cuda_devices)
        print(f"{time.perf_counter() - begin:.0f} s: checkpoints are written", flush=True)
        for system in arguments.systems:
            try:
                results[system] = measure(system, arguments, folders[system])
                print(f"{time.perf_counter() - begin:.0f} s: {system} is measured", flush=True)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                results[system] = {"error": str(error)[-3000:]}
            print(system, json.dumps(results[system], indent=2), flush=True)
            report = described(arguments, results)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["compared"]), f"{time.perf_counter() - begin:.0f} s in all")


def described(arguments: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """The results and where they come from."""
    import torch

    return {
        "machine": _measure.machine(),
        "device": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"],
        "versions": _measure.versions(),
        "size": dict(zip(("layers", "width", "heads", "vocabulary"), _SIZES[arguments.size], strict=True)),
        "ranks": arguments.ranks,
        "results": results,
        "compared": compare(results),
    }


if __name__ == "__main__":
    main()
