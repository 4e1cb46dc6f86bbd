"""The measured process of load.py: import everything, say so, wait for the word, load one model, hold it."""

import contextlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

_PAGE = 4096


def touch(model: torch.nn.Module) -> float:
    """Read one value of every page of every parameter, so that nothing is left to be fetched later."""
    total = 0.0
    for parameter in model.parameters():
        values = parameter.detach()
        step = _PAGE // values.element_size()
        # The order of the file: flagai uses transposed and cut matrices where they lie.
        order = sorted(range(values.dim()), key=values.stride, reverse=True)
        values = values.permute(order)
        values = values.view(-1) if values.is_contiguous() else values
        total += float(values[..., ::step].sum(dtype=torch.float32))
    return total


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Load as the task says, when the parent says so.

    Args:
        task: ``module`` and ``cls``; ``folder`` and ``options`` for from_pretrained; ``preimport``, modules that an
            earlier run of the same load imported late: imports are measured apart.

    Returns:
        The times, what was imported late, and the model under "model", so that it stays in memory.
    """
    cls = getattr(importlib.import_module(task["module"]), task["cls"])
    for name in task["preimport"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    options = dict(task["options"])
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    known = set(sys.modules)
    _reset_peak()
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    model = cls.from_pretrained(task["folder"], **options)
    loaded = time.perf_counter()
    touch(model)
    ready = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "model": model,
        "load_s": loaded - start,
        "ready_s": ready - start,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "imported_late": sorted(set(sys.modules) - known),
    }


if __name__ == "__main__":
    outcome = measure(json.loads(sys.argv[1]))
    held = outcome.pop("model")
    print("result " + json.dumps(outcome), flush=True)
    sys.stdin.readline()
