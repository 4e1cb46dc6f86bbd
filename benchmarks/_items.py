"""What benchmarks of one device share: items in processes of their own, models of random weights, the clock."""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flagai.generation import Prompt

MARK = "found "  # begins the line in which a process tells its result


def apart(script: Path, name: str, flags: Sequence[str], limit: float, **variables: str) -> Any:
    """Run an item in a process of its own: what breaks there breaks nothing else.

    Args:
        script: the benchmark; with ``--inside --only NAME`` it runs one item and prints its result after MARK.
        name: the item.
        flags: more arguments.
        limit: seconds that the item may take; then what it had noted counts.
        **variables: for the environment.
    """
    command = [sys.executable, str(script), "--inside", "--only", name, *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=os.environ | variables)
    except subprocess.TimeoutExpired as error:
        printed = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
        return {"error": f"not done after {limit} s", **_kept(printed or "")}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if lines:
        return json.loads(lines[-1].removeprefix(MARK))
    return {"error": done.stderr[-1500:], **_kept(done.stderr)}


def _kept(printed: str) -> dict[str, Any]:
    """What an item had noted before its end."""
    found: dict[str, Any] = {}
    for line in printed.splitlines():
        name, _, value = line.partition(": ")
        try:
            found[name] = json.loads(value)
        except ValueError:
            continue
    return found


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


def clocked(work: Callable[[], Any]) -> float:
    """Seconds until the device has done the work."""
    _synchronize()
    start = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def made(cls: Any, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> Any:
    """A model with random weights, made on its device."""
    model = cls.on_meta(cls.config_class.from_dict(config)).to(dtype)
    torch.manual_seed(0)
    model.initialized_on(torch.device(device))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def prompt(count: int, vocabulary: int, seed: int = 0) -> Prompt:
    """A text of random ids."""
    ids = torch.randint(10, vocabulary, [count], generator=torch.Generator().manual_seed(seed))
    return Prompt(tuple(ids.tolist()))
