"""Loading 10 billion parameters into a GPU: flagai, transformers, and what the machine can do; see load.py --gpu."""

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _measure

_WORKER = Path(__file__).with_name("_load_gpu_worker.py")
_VERSION = 1
_WIDTH, _LAYERS, _QUICK_LAYERS, _VOCABULARY, _POSITIONS = 4096, 48, 12, 50048, 1024
_SHARDS = 5
_WRITERS = 8
_THREADS = (4, 8, 16)
# What --tune compares with the loader's own choice.
_VARIANTS = (
    {"readers": 8},
    {"readers": 12},
    {"buffer_bytes": 2 << 20},
    {"buffer_bytes": 8 << 20},
    {"buffer_bytes": 16 << 20},
    {"buffers": 3},
    {"read_bytes": 32 << 20},
)
Shapes = dict[str, tuple[int, ...]]


def _glm(layers: int) -> tuple[dict[str, Any], Shapes]:
    """Configuration and tensors of a GLM in the original's layout."""
    config = {
        "model_type": "glm",
        "num_layers": layers,
        "vocab_size": _VOCABULARY,
        "hidden_size": _WIDTH,
        "num_attention_heads": 64,
        "max_sequence_length": _POSITIONS,
    }
    shapes: Shapes = {
        "word_embeddings.weight": (_VOCABULARY, _WIDTH),
        "transformer.position_embeddings.weight": (_POSITIONS + 1, _WIDTH),
        "transformer.block_position_embeddings.weight": (_POSITIONS + 1, _WIDTH),
    }
    for layer in range(layers):
        name = f"transformer.layers.{layer}"
        shapes |= _linear(f"{name}.attention.query_key_value", 3 * _WIDTH, _WIDTH)
        shapes |= _linear(f"{name}.attention.dense", _WIDTH, _WIDTH)
        shapes |= _linear(f"{name}.mlp.dense_h_to_4h", 4 * _WIDTH, _WIDTH)
        shapes |= _linear(f"{name}.mlp.dense_4h_to_h", _WIDTH, 4 * _WIDTH)
        shapes |= _norm(f"{name}.input_layernorm") | _norm(f"{name}.post_attention_layernorm")
    return config, shapes | _norm("transformer.final_layernorm")


def _gpt2(layers: int) -> tuple[dict[str, Any], Shapes]:
    """Configuration and tensors of a GPT-2 of the same size in transformers' layout, matrices transposed."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": _VOCABULARY,
        "n_embd": _WIDTH,
        "n_layer": layers,
        "n_head": 64,
        "n_positions": _POSITIONS,
        "dtype": "bfloat16",
    }
    shapes: Shapes = {
        "transformer.wte.weight": (_VOCABULARY, _WIDTH),
        "transformer.wpe.weight": (_POSITIONS, _WIDTH),
    }
    for layer in range(layers):
        name = f"transformer.h.{layer}"
        for part, rows, columns in (
            ("attn.c_attn", _WIDTH, 3 * _WIDTH),
            ("attn.c_proj", _WIDTH, _WIDTH),
            ("mlp.c_fc", _WIDTH, 4 * _WIDTH),
            ("mlp.c_proj", 4 * _WIDTH, _WIDTH),
        ):
            shapes |= {f"{name}.{part}.weight": (rows, columns), f"{name}.{part}.bias": (columns,)}
        shapes |= _norm(f"{name}.ln_1") | _norm(f"{name}.ln_2")
    return config, shapes | _norm("transformer.ln_f")


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str) -> Shapes:
    return {f"{name}.weight": (_WIDTH,), f"{name}.bias": (_WIDTH,)}


def write(folder: Path, config: dict[str, Any], shapes: Shapes) -> None:
    """Write random bfloat16 weights in shards, unless they are there: as fast as the disk takes them.

    Args:
        folder: where to.
        config: for config.json.
        shapes: of all tensors.
    """
    done = folder / f"complete-{_VERSION}"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    block = _random_block()
    names, shards, total = list(shapes), [], sum(map(_bytes, shapes.values()))
    size = 0
    for name in names:
        if size * _SHARDS >= total * len(shards):
            shards.append([name])
        else:
            shards[-1].append(name)
        size += _bytes(shapes[name])
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, {name: shapes[name] for name in shard}, block)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done.touch()


def _bytes(shape: Sequence[int]) -> int:
    size = 2
    for extent in shape:
        size *= extent
    return size


def _random_block() -> memoryview:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.randn(16 << 20, device=device).mul_(0.02).bfloat16().cpu()
    return memoryview(values.view(torch.uint8).numpy())


def _write_shard(path: Path, shapes: Shapes, block: memoryview) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        step = len(block) - 4096  # so that no two tensors have equal bytes
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(
                pool.map(
                    lambda at: _write_at(file.fileno(), start, at, min(step, end - at), block), range(0, end, step)
                )
            )


def _write_at(descriptor: int, start: int, begin: int, size: int, block: memoryview) -> None:
    shift = begin // 2048 % 2048 * 2
    done = 0
    while done < size:
        done += os.pwrite(descriptor, block[shift + done : shift + size], start + begin + done)


class GpuBench:
    """Measures loads into a GPU, and keeps what is known so far in a file.

    Args:
        folder: where the checkpoints are made and reused: 40 GB, with quick 11.
        quick: a quarter of the layers.
        rounds: how often each time is taken.
        out: the file for the results; None for none.
        commit: of the tree that is measured, where git cannot tell.
    """

    def __init__(self, folder: Path, *, quick: bool, rounds: int, out: Path | None, commit: str | None) -> None:
        self.folder = folder
        self.layers = _QUICK_LAYERS if quick else _LAYERS
        self.rounds = rounds
        self.out = out
        versions = _measure.versions()
        self.results: dict[str, Any] = {
            "machine": _measure.machine(),
            "versions": versions | {"commit": commit or versions["commit"]},
            "rounds": rounds,
            "steps": {},
        }
        self.began = time.perf_counter()

    def step(self, name: str, action: Callable[[], Any]) -> Any:
        """Do one part, print what it found, and write everything; a failure is a result too."""
        start = time.perf_counter()
        try:
            found = action()
        except Exception as error:  # noqa: BLE001 - the machine's time is dear: go on with the rest
            found = {"error": f"{type(error).__name__}: {error}"[-2000:]}
        self.results["steps"][name] = found
        now = time.perf_counter()
        print(f"[{now - self.began:6.1f} s, {now - start:5.1f} s] {name}: {json.dumps(found)[:1500]}", flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        return found

    def files(self, name: str) -> list[Path]:
        """The files with weights of one checkpoint."""
        return sorted((self.folder / f"{name}-{self.layers}").glob("*.safetensors"))

    def load(self, name: str, library: str, **more: Any) -> dict[str, Any]:
        """Load a checkpoint once, in a fresh process."""
        task = {"folder": str(self.folder / f"{name}-{self.layers}"), "name": name, "library": library, **more}
        with _measure.Worker(_WORKER, task) as worker:
            worker.wait_until_ready()
            if more.get("cold"):
                _measure.drop_from_cache(self.files(name))
            worker.go()
            return worker.result()

    def warm(self, name: str, libraries: Sequence[str], **more: Any) -> dict[str, Any]:
        """Load in turns, and give the medians."""
        runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
        for number in range(self.rounds):
            for library in libraries:
                runs[library].append(self.load(name, library, check=number == 0, **more))
        seconds = {library: statistics.median(run["load_s"] for run in found) for library, found in runs.items()}
        size = sum(file.stat().st_size for file in self.files(name))
        summary: dict[str, Any] = {"bytes": size, "load_s": seconds}
        summary["GB_per_s"] = {library: round(size / time / 1e9, 2) for library, time in seconds.items()}
        if len(seconds) > 1:
            summary["faster"] = round(seconds["transformers"] / seconds["flagai"], 2)
        return summary | {"runs": runs}

    def again(self, name: str, **more: Any) -> dict[str, Any]:
        """Load with flagai, some other way."""
        runs = [self.load(name, "flagai", **more) for _ in range(self.rounds)]
        return {"load_s": [round(run["load_s"], 3) for run in runs], "notes": runs[-1]["notes"]}

    def cold(self, name: str, libraries: Sequence[str]) -> dict[str, Any]:
        """Load with an empty page cache, and read the files plainly beside it, in turns: disks vary."""
        files = self.files(name)
        if not _measure.drop_from_cache(files):
            return {"error": "this system keeps files in its cache"}
        size = sum(file.stat().st_size for file in files)
        reads: list[float] = []
        runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
        for _ in range(self.rounds):
            reads.append(_measure.read_limit(files, _THREADS[-1:], cold=True))
            for library in libraries:
                runs[library].append(self.load(name, library, cold=True))
        read = statistics.median(reads)
        seconds = {library: statistics.median(run["load_s"] for run in found) for library, found in runs.items()}
        return {
            "bytes": size,
            "read_s": read,
            "disk_GB_per_s": round(size / read / 1e9, 2),
            "load_s": seconds,
            "share_of_disk": {library: round(read / time, 3) for library, time in seconds.items()},
            "runs": runs | {"read": reads},
        }


def run(bench: GpuBench, *, cold: bool, tune: bool) -> dict[str, Any]:
    """Measure everything, what matters most first.

    Args:
        bench: how.
        cold: also with an empty page cache.
        tune: also other numbers of readers and sizes of buffers.
    """
    glm, gpt2 = bench.folder / f"glm-{bench.layers}", bench.folder / f"gpt2-{bench.layers}"
    bench.step("write GLM", lambda: write(glm, *_glm(bench.layers)))
    bench.step("GPU", lambda: bench.load("glm", "limits"))
    bench.step(
        "page cache to memory, seconds by threads",
        lambda: {count: _measure.read_limit(bench.files("glm"), [count]) for count in _THREADS},
    )
    bench.step("GLM warm", lambda: bench.warm("glm", ["flagai"]))
    bench.step("GLM warm, cast to float16", lambda: bench.load("glm", "flagai", dtype="float16"))
    if tune:
        for variant in _VARIANTS:
            bench.step(f"GLM warm, {variant}", lambda variant=variant: bench.again("glm", stream=variant))
    bench.step("write GPT-2", lambda: write(gpt2, *_gpt2(bench.layers)))
    bench.step("GPT-2 warm", lambda: bench.warm("gpt2", ["flagai", "transformers"]))
    if cold:
        bench.step("GLM cold", lambda: bench.cold("glm", ["flagai"]))
        bench.step("GPT-2 cold", lambda: bench.cold("gpt2", ["flagai", "transformers"]))
    return bench.results
