"""The measured process of load.py --gpu: import, open the device, say so, wait for the word, load one model."""

import functools
import importlib
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

_CLASSES = {
    ("glm", "flagai"): ("flagai.model.glm_model", "GLMModel"),
    ("gpt2", "flagai"): ("flagai.model.gpt2_model", "GPT2Model"),
    ("gpt2", "transformers"): ("transformers", "GPT2LMHeadModel"),
}
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def limits() -> dict[str, Any]:
    """The device's name, and how fast it takes pinned memory."""
    if _DEVICE == "cpu":
        return {"device": "cpu"}
    here, there = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True), torch.empty(1 << 30, dtype=torch.uint8)
    there = there.cuda()
    best = 0.0
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        there.copy_(here, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, (1 << 30) / (time.perf_counter() - start) / 1e9)
    name = torch.cuda.get_device_name()
    return {"device": name, "cuda": torch.version.cuda, "pinned_to_device_GB_per_s": round(best, 1)}


class _Notes(logging.Handler):
    """Keeps what the loader says about its phases."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def prepare(task: dict[str, Any]) -> tuple[Any, dict[str, Any], _Notes]:
    """Import the class and choose its options.

    Args:
        task: what load.py asks for.
    """
    module, cls = _CLASSES[task["name"], task["library"]]
    notes = _Notes()
    dtype = getattr(torch, task.get("dtype", "bfloat16"))
    options: dict[str, Any] = {"dtype": dtype, "device": _DEVICE}
    if task["library"] == "transformers":
        options = {"dtype": dtype, "device_map": _DEVICE}
    else:
        logger = logging.getLogger("flagai.checkpoint.stream.readers")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(notes)
        if "stream" in task:
            from flagai.checkpoint.stream import readers as stream

            stream.ReaderOptions = functools.partial(stream.ReaderOptions, **task["stream"])
    return getattr(importlib.import_module(module), cls), options, notes


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Load once.

    Args:
        task: what load.py asks for.
    """
    began = time.perf_counter()
    cls, options, notes = prepare(task)
    if task["library"] == "transformers":  # imported late by the first load; imports are not what is measured
        importlib.import_module("transformers.integrations.accelerate")
    imported = time.perf_counter()
    torch.ones(8, device=_DEVICE).sum().item()
    opened = time.perf_counter()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    model = cls.from_pretrained(task["folder"], **options)
    if _DEVICE == "cuda":
        torch.cuda.synchronize()
    loaded = time.perf_counter()
    return {
        "load_s": loaded - start,
        "import_s": imported - began,
        "context_s": opened - imported,
        "peak_resident_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device_MB": torch.cuda.max_memory_allocated() >> 20 if _DEVICE == "cuda" else None,
        "notes": notes.lines,
        "equal_to_the_files": check(model, task) if task.get("check") and task["library"] == "flagai" else None,
    }


def check(model: Any, task: dict[str, Any]) -> bool:
    """Whether every parameter has the values of the files, by loading them a second time on the CPU."""
    plain = type(model).from_pretrained(task["folder"])
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    return all(torch.equal(got, expected.to(got.device, got.dtype)) for got, expected in pairs)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent.parent / "src")]
    asked = json.loads(sys.argv[1])
    if asked["library"] == "limits":
        print("ready", flush=True)
        sys.stdin.readline()
        outcome = limits()
    else:
        outcome = measure(asked)
    print("result " + json.dumps(outcome), flush=True)
    sys.stdin.readline()
