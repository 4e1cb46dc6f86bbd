"""One rank of parallel.py: join the others, then load, decode and tell.

Everything that a first use imports or allocates (libraries, NCCL, CUDA) is used on a tiny checkpoint beforehand.
"""

import contextlib
import gc
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from _measure import copy_bandwidth
from _parallel_rank_load import load, timed_load, wait
from torch import distributed

_PROMPT = 32


# -- decoding ---------------------------------------------------------------------------------------------------


def prompt(vocabulary: int) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, vocabulary, (_PROMPT,), generator=generator).tolist()


SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beams_4": {"num_beams": 4}}
SAMPLING: dict[str, dict[str, Any]] = {"sampling": {"do_sample": True, "seed": 3, "top_k": 50, "top_p": 0.9}}


def searches(task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return SEARCHES | (SAMPLING if task["variants"] else {})


def decode_flagai(task: dict[str, Any], model: Any) -> dict[str, Any]:
    """Tokens a second of the library's own generation, and whether recorded answers are those of eager steps."""
    found: dict[str, Any] = {}
    short, long = task["tokens"] // 4, task["tokens"]
    with told_if_late(task, model, found):
        noted(found, "eager", lambda: rates(task, model, 4, 12, {"cuda_graphs": False}))
        for name, changes in VARIANTS.items() if task["variants"] else ():
            with changed(model, changes):
                noted(found, name, lambda: rates(task, model, short, long, {}))
        for name, options in searches(task).items():
            noted(found, name, lambda options=options: rates(task, model, short, long, options))
        noted(found, "equal", lambda: equal(task, model))
    return found


@contextmanager
def told_if_late(task: dict[str, Any], model: Any, found: dict[str, Any]) -> Iterator[None]:
    """Ranks that wait for each other for ever end after a while, and tell what they have found so far."""

    def give_up() -> None:
        _tell({"decode": found | {"hangs after": list(found)[-1:]}, "bytes": local_bytes(model), "copy_bytes_s": None})
        os._exit(1)

    timer = threading.Timer(task["patience"], give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def noted(found: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """Put a finding among the others; one failure must not end the run."""
    try:
        found[name] = work()
    except Exception:  # noqa: BLE001
        found[name] = {"error": traceback.format_exc()[-1500:]}
    print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)


def answer(model: Any, count: int, options: dict[str, Any]) -> Any:
    from flagai.generation import Decoding, Prompt, generate

    text = Prompt(tuple(prompt(model.config.vocab_size)))
    return generate(model, [text], Decoding(max_new_tokens=count, **options))[0][0]


def rates(task: dict[str, Any], model: Any, short: int, long: int, options: dict[str, Any]) -> dict[str, float]:
    """Steps a second, from the difference between a long and a short answer: what comes before does not count."""

    def run(count: int) -> float:
        wait(task)
        start = time.perf_counter()
        answer(model, count, options)
        wait(task)
        return time.perf_counter() - start

    run(short), run(long)
    whole, first = zip(*((run(long), run(short)) for _ in range(3)), strict=True)
    step = statistics.median(a - b for a, b in zip(whole, first, strict=True)) / (long - short)
    return {"tokens_s": round(1 / step, 2), "ms_a_step": round(1e3 * step, 3), "first_s": round(min(first), 3)}


def equal(task: dict[str, Any], model: Any) -> dict[str, Any]:
    """How many ids of a recorded answer are those of the eager one, before the first that differs."""
    found = {}
    for name, options in searches(task).items():
        fast, plain = (answer(model, 24, {**options, "cuda_graphs": graphs}) for graphs in (True, False))
        same = next((i for i, (a, b) in enumerate(zip(fast.ids, plain.ids, strict=False)) if a != b), len(plain.ids))
        found[name] = {"same": same, "of": len(plain.ids), "scores": [round(fast.score, 4), round(plain.score, 4)]}
        heads = [None] * distributed.get_world_size()
        distributed.all_gather_object(heads, fast.ids)
        found[name]["ranks_agree"] = all(head == heads[0] for head in heads)
    return found


def _torch_blocks() -> AbstractContextManager[None]:
    from flagai.model.layer.kernel_choice import only_kernels

    return only_kernels()


@contextmanager
def _nccl_sums() -> Iterator[None]:
    from flagai.kernels.decode import tensor_parallel_block as kernels

    rendezvous = kernels.rendezvous
    kernels.rendezvous = lambda *_: None
    kernels.BUFFERS.clear()
    try:
        yield
    finally:
        kernels.rendezvous = rendezvous
        kernels.BUFFERS.clear()


# What else the step could be made of.
VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "torch's products": _torch_blocks,
    "kernels, sums by NCCL": _nccl_sums,
}


@contextmanager
def changed(model: Any, variant: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Another way of computing in the body; recordings of before are not used there, nor its own afterwards."""
    from flagai.generation.replay.steps import captured_steps

    captured_steps(model).clear()
    with variant():
        yield
    captured_steps(model).clear()


def exact(task: dict[str, Any], mesh: Any) -> dict[str, Any]:
    """A small model in both types: ids of recorded and eager answers, on both ranks."""
    from flagai.generation.replay.steps import captured_steps
    from flagai.model.glm_model import GLMModel

    found = {}
    for dtype in ("float32", "bfloat16") if task["variants"] else ("float32",):
        model = GLMModel.from_pretrained(task["small"], mesh=mesh, device=task["device"], dtype=dtype)
        found[dtype] = equal(task, model)
        if task["device"] != "cpu":
            found[dtype]["kernels"] = any(
                step.kernels for steps in captured_steps(model) for step in steps.forwards.values()
            )
    return found


def decode_peer(task: dict[str, Any], model: Any) -> dict[str, Any]:
    """Greedy tokens per second of transformers' own generation, as by default and with a static cache, compiled."""
    found = {"greedy": _peer_step(task, model)}
    try:
        found["greedy, tuned"] = _peer_step(task, model, cache_implementation="static")
    except Exception as error:  # noqa: BLE001 - compiling a sharded model may fail; that is a result
        found["greedy, tuned"] = {"error": f"{type(error).__name__}: {error}"[:500]}
    return found


def _peer_step(task: dict[str, Any], model: Any, **given: Any) -> dict[str, Any]:
    ids = torch.tensor([prompt(model.config.vocab_size)], device=task["device"])

    def run(count: int) -> float:
        wait(task)
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), min_new_tokens=count, max_new_tokens=count,
                do_sample=False, pad_token_id=0, **given,
            )  # fmt: skip
        wait(task)
        return time.perf_counter() - start

    short, long = 4, 4 + task["tokens"] // 4
    run(long), run(short)
    step = statistics.median((run(long) - run(short)) / (long - short) for _ in range(2))
    return {"tokens_s": round(1 / step, 2), "ms_a_step": round(1e3 * step, 3)}


# -- one rank ---------------------------------------------------------------------------------------------------


def local_bytes(model: Any) -> int:
    """Bytes of parameters on this rank."""
    unique = {id(parameter): parameter for parameter in model.parameters()}
    return sum(getattr(value, "_local_tensor", value).nbytes for value in unique.values())


def join(task: dict[str, Any]) -> Any:
    """Meet the other ranks; flagai's mesh."""
    rank, size = task["rank"], task["ranks"]
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(task["port"]),
    )  # fmt: skip
    cuda = task["device"] != "cpu"
    if cuda:
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=120))
    if task["system"] != "flagai":
        return None
    from flagai.parallel.world import make_mesh

    return make_mesh(task["device"], tp=size)


def serve(task: dict[str, Any]) -> None:
    """Join, get ready, and do what the parent says: load once for each line, then decode."""
    mesh = join(task)
    cuda, ours = task["device"] != "cpu", task["system"] == "flagai"
    with contextlib.suppress(Exception):  # a tiny model may be too small for the other's ways
        model = load(task, task["tiny"], mesh)
        answer(model, 4, {}) if ours else decode_peer({**task, "tokens": 4}, model)
    model = None
    gc.collect()
    bandwidth = copy_bandwidth() if cuda else None
    wait(task)
    print("ready", flush=True)
    for _ in range(task["rounds"]):
        sys.stdin.readline()
        model = None
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        told, model = timed_load(task, mesh)
        _tell(told)
    sys.stdin.readline()
    found: dict[str, Any] = {}
    if task["decode"]:
        found = (decode_flagai if ours else decode_peer)(task, model)
    if ours and task["decode"]:
        with told_if_late(task, model, found):
            noted(found, "small model", lambda: exact(task, mesh))
    size = local_bytes(model)
    if ours and task["variants"]:
        model = None
        from _parallel_loads import other_loads

        noted(found, "other loads", lambda: other_loads(partial(timed_load, task), mesh, task["ranks"], task["device"]))
    _tell({"decode": found, "bytes": size, "copy_bytes_s": bandwidth})
    sys.stdin.readline()
    if not ours:
        os._exit(0)


def _tell(found: dict[str, Any]) -> None:
    print("result " + json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
