"""One model on several devices: time and memory of loading, and tokens a second; see benchmarks/README.md."""

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure

_WORKER = Path(__file__).with_name("_parallel_worker.py")
_SYSTEMS = ("flagai", "transformers")
# layers, width, heads, vocabulary: GLM-10b, an eighth of it, one for CPUs, and a dry run.
_SIZES = {
    "full": (48, 4096, 64, 50304),
    "quick": (6, 4096, 64, 50304),
    "medium": (24, 2048, 16, 50304),
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


def prepare(scratch: Path, system: str, size: str, device: str) -> Path:
    """Write a checkpoint unless it is there."""
    folder = scratch / f"{system}-{size}"
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        task = {"write": True, "system": system, "folder": str(folder), "config": config(system, size)}
        subprocess.run([sys.executable, str(_WORKER), json.dumps(task | {"device": device})], check=True)
        done.touch()
    return folder


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def measure(system: str, arguments: argparse.Namespace, folder: Path, tiny: Path) -> dict[str, Any]:
    """Load and decode with one system."""
    task = {
        "system": system, "folder": str(folder), "tiny": str(tiny), "ranks": arguments.ranks, "port": free_port(),
        "device": arguments.device, "rounds": arguments.rounds, "tokens": arguments.tokens,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_measure.Worker(_WORKER, task | {"rank": rank})) for rank in range(arguments.ranks)
        ]
        for worker in workers:
            worker.wait_until_ready()
        before = [worker.memory()["RssAnon"] for worker in workers]
        seconds, peaks = [], []
        for _ in range(arguments.rounds):
            with contextlib.ExitStack() as sampled:
                samples = [sampled.enter_context(worker.peak()) for worker in workers]
                for worker in workers:
                    worker.go()
                seconds.append(max(worker.result()["seconds"] for worker in workers))
            peaks.append([sample["RssAnon"] - start for sample, start in zip(samples, before, strict=True)])
        held = [worker.memory() for worker in workers]
        for worker in workers:
            worker.go()
        decoded = [worker.result() for worker in workers]
    return {
        "load_s": round(statistics.median(seconds), 3),
        "load_all_s": [round(value, 3) for value in seconds],
        "anonymous_above_start_peak_MB": [round(max(rank) / 1e6) for rank in zip(*peaks, strict=True)],
        "anonymous_at_start_MB": [round(value / 1e6) for value in before],
        "anonymous_held_MB": [round(memory["RssAnon"] / 1e6) for memory in held],
        "resident_held_MB": [round(memory["VmRSS"] / 1e6) for memory in held],
        "weights_GB_a_rank": round(decoded[0]["bytes"] / 1e9, 4),
        **_decoding(decoded[0]),
    }


def _decoding(found: dict[str, Any]) -> dict[str, Any]:
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}
    bandwidth = rounded.pop("copy_bytes_s")
    del rounded["bytes"]
    if bandwidth:
        rounded["device_copy_TB_s"] = round(bandwidth / 1e12, 2)
        rounded["bandwidth_limit_tokens_s"] = round(bandwidth / found["bytes"], 1)
    return rounded


def compare(results: dict[str, Any]) -> dict[str, Any]:
    """Flagai beside transformers, as ratios."""
    if not all("load_s" in results.get(system, {}) for system in _SYSTEMS):
        return {}
    ours, peer = (results[system] for system in _SYSTEMS)
    best = max(ours["eager_tokens_s"], ours.get("graph_tokens_s", 0.0))
    return {
        "load_times_faster": round(peer["load_s"] / ours["load_s"], 2),
        "decode_times_faster": round(best / peer["eager_tokens_s"], 2),
        "eager_times_faster": round(ours["eager_tokens_s"] / peer["eager_tokens_s"], 2),
    }


def main() -> None:
    import torch

    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--size", choices=_SIZES, default="full" if cuda else "dry")
    parser.add_argument("--quick", action="store_true", help="an eighth of the model, one round")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="loads of each system")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS))
    parser.add_argument("--scratch", type=Path, help="where checkpoints are kept; default a temporary folder")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
        arguments.size = "quick" if cuda else "dry"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        results: dict[str, Any] = {}
        for system in arguments.systems:
            try:
                tiny = prepare(scratch, system, "dry", arguments.device)
                folder = prepare(scratch, system, arguments.size, arguments.device)
                results[system] = measure(system, arguments, folder, tiny)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                results[system] = {"error": str(error)[-3000:]}
            print(system, json.dumps(results[system], indent=2), flush=True)
    report = {
        "machine": _measure.machine(),
        "device": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"],
        "versions": _measure.versions(),
        "size": dict(zip(("layers", "width", "heads", "vocabulary"), _SIZES[arguments.size], strict=True)),
        "ranks": arguments.ranks,
        "results": results,
        "compared": compare(results),
    }
    print(json.dumps(report["compared"]))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
