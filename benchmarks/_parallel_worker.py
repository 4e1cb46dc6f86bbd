"""One rank of parallel.py: join the others, then load, decode and tell; or write a random checkpoint.

Everything that a first use imports or allocates (libraries, NCCL, CUDA) is used on a tiny checkpoint beforehand.
"""

import contextlib
import gc
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

_PROMPT = 32


# -- writing ----------------------------------------------------------------------------------------------------


def write(task: dict[str, Any]) -> None:
    """Draw weights on the device and write them in bfloat16.

    Args:
        task: ``system``, ``folder``, ``config``, ``device``.
    """
    torch.manual_seed(0)
    device = torch.device(task["device"])
    if task["system"] == "flagai":
        from flagai.model.glm_model import GLMConfig, GLMModel

        model = GLMModel.on_meta(GLMConfig.from_dict(task["config"])).to(torch.bfloat16)._drawn(device)
        model.save_pretrained(task["folder"], layout="huggingface")
        return
    import transformers

    with torch.device("meta"):
        peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**task["config"])).to(torch.bfloat16)
    peer = peer.to_empty(device=device)
    for name, parameter in peer.named_parameters():
        torch.nn.init.ones_(parameter) if "norm" in name else torch.nn.init.normal_(parameter, std=0.02)
    peer.tie_weights()
    peer.save_pretrained(task["folder"])


# -- loading ----------------------------------------------------------------------------------------------------


def load(task: dict[str, Any], folder: str, mesh: Any) -> Any:
    """Load with all ranks."""
    if task["system"] == "flagai":
        from flagai.model.glm_model import GLMModel

        return GLMModel.from_pretrained(folder, mesh=mesh, device=task["device"])
    import transformers

    options: dict[str, Any] = {"tp_plan": "auto"}
    with contextlib.suppress(ImportError, TypeError):  # its new name
        from transformers.distributed import DistributedConfig

        options = {"distributed_config": DistributedConfig(tp_plan="auto")}
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


def timed_load(task: dict[str, Any], mesh: Any) -> tuple[float, Any]:
    """Seconds until the last rank has its part, and the model."""
    _wait(task)
    start = time.perf_counter()
    model = load(task, task["folder"], mesh)
    if task["device"] == "cpu":  # views of the file: fetch every page
        for parameter in model.parameters():
            values = getattr(parameter, "_local_tensor", parameter.data).detach()
            values.reshape(-1)[:: 4096 // values.element_size()].sum(dtype=torch.float32)
    _wait(task)
    return time.perf_counter() - start, model


def _wait(task: dict[str, Any]) -> None:
    if task["device"] != "cpu":
        torch.cuda.synchronize()
    distributed.barrier()


# -- decoding ---------------------------------------------------------------------------------------------------


class StaticCache:
    """Keys and values at fixed addresses, as CUDA graphs want: every step sees the whole buffer under a mask.

    Args:
        layers: number of layers.
        capacity: number of positions.
        device: where they are.
    """

    def __init__(self, layers: int, capacity: int, device: torch.device) -> None:
        self.length = capacity - 1
        self._buffers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers
        self.position = torch.zeros(1, dtype=torch.long, device=device)

    def layer(self, index: int) -> Any:
        cache = self

        class Layer:
            def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return cache.write(index, key, value)

        return Layer()

    def write(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._buffers[index] is None:
            shape = (*key.shape[:2], self.length + 1, key.shape[3])
            self._buffers[index] = (key.new_zeros(shape), value.new_zeros(shape))
        keys, values = self._buffers[index]  # type: ignore[misc]
        keys.index_copy_(2, self.position, key)
        values.index_copy_(2, self.position, value)
        return keys, values

    def advance(self, count: int) -> None:
        pass


def prompt(task: dict[str, Any], vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, vocabulary, (1, _PROMPT), generator=generator).to(task["device"])


def decode_flagai(task: dict[str, Any], model: Any) -> dict[str, Any]:
    """Greedy tokens a second with the growing cache, and on CUDA with one recorded step."""
    ids = prompt(task, model.config.vocab_size)
    eager, tokens = _timed(task, lambda: _eager(model, ids, task["tokens"]), task["tokens"])
    found: dict[str, Any] = {"eager_tokens_s": eager}
    try:
        run = static_decoding(model, ids, _PROMPT + task["tokens"] + 8)
        steps = _PROMPT + task["tokens"] - 1  # the prompt goes through the same step
        found["graph_tokens_s"], again = _timed(task, lambda: run(task["tokens"]), steps)
        found["graph_equals_eager"] = sum(a == b for a, b in zip(tokens, again, strict=True)) / len(tokens)
    except Exception as error:  # noqa: BLE001 - the other figures are still worth having
        found["graph_error"] = f"{type(error).__name__}: {error}"
    return found


def _timed(task: dict[str, Any], run: Any, steps: int) -> tuple[float, list[int]]:
    run()
    _wait(task)
    start = time.perf_counter()
    tokens = run()
    _wait(task)
    return steps / (time.perf_counter() - start), tokens


@torch.inference_mode()
def _eager(model: Any, ids: torch.Tensor, count: int) -> list[int]:
    cache = model.new_cache(_PROMPT + count)
    found = []
    last = ids
    mask: torch.Tensor | None = torch.zeros((), dtype=torch.long, device=ids.device)  # causal; later steps always are
    for _ in range(count):
        last = model(last, attention_mask=mask, cache=cache)["logits"][:, -1:].argmax(-1)
        mask = None
        found.append(last)
    return torch.cat(found).flatten().tolist()


def static_decoding(model: Any, ids: torch.Tensor, capacity: int) -> Any:
    """A function that decodes greedily by repeating one step, which CUDA replays from a recording."""
    cache = StaticCache(len(model.blocks), capacity, ids.device)
    last = ids[:, :1].clone()
    following = last.clone()
    everywhere = torch.arange(capacity, device=ids.device)

    @torch.inference_mode()
    def step() -> None:
        mask = (everywhere <= cache.position)[None, None, None]
        position = torch.stack([cache.position, torch.zeros_like(cache.position)])[None]
        logits = model(last, position_ids=position, attention_mask=mask, cache=cache)["logits"]
        following.copy_(logits[:, -1:].argmax(-1))
        cache.position.add_(1)

    step()
    repeat = step if ids.device.type == "cpu" else _record(step, cache)

    @torch.inference_mode()
    def run(count: int) -> list[int]:
        cache.position.zero_()
        found = []
        for position in range(_PROMPT + count - 1):
            last.copy_(ids[:, position : position + 1] if position < _PROMPT else following)
            repeat()
            if position >= _PROMPT - 1:
                found.append(following.clone())
        return torch.cat(found).flatten().tolist()

    return run


@torch.inference_mode()
def _record(step: Any, cache: StaticCache) -> Any:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            cache.position.zero_()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    distributed.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's own thread may go on
        step()
    return graph.replay


def decode_peer(task: dict[str, Any], model: Any) -> dict[str, Any]:
    """Greedy tokens a second of transformers' own generation."""
    ids = prompt(task, model.config.vocab_size)

    def run() -> list[int]:
        count = task["tokens"]
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), min_new_tokens=count, max_new_tokens=count,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
        return written[0, _PROMPT:].tolist()

    return {"eager_tokens_s": _timed(task, run, task["tokens"])[0]}


# -- one rank ---------------------------------------------------------------------------------------------------


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    for _ in range(2):
        target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    torch.cuda.synchronize()
    return 20 * source.nbytes / (time.perf_counter() - start)


def local_bytes(model: Any) -> int:
    """Bytes of parameters on this rank."""
    unique = {id(parameter): parameter for parameter in model.parameters()}
    return sum(getattr(value, "_local_tensor", value).nbytes for value in unique.values())


def serve(task: dict[str, Any]) -> None:
    """Join, get ready, and do what the parent says: load once for each line, then decode."""
    rank, size = task["rank"], task["ranks"]
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(task["port"]),
    )  # fmt: skip
    cuda = task["device"] != "cpu"
    if cuda:
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=300))
    mesh = None
    if task["system"] == "flagai":
        from flagai.parallel.world import make_mesh

        mesh = make_mesh(task["device"], tp=size)
    with contextlib.suppress(Exception):  # a tiny model may be too small for the other's ways
        decode = decode_flagai if task["system"] == "flagai" else decode_peer
        decode({**task, "tokens": 4}, load(task, task["tiny"], mesh))
    gc.collect()
    bandwidth = copy_bandwidth() if cuda else None
    _wait(task)
    print("ready", flush=True)
    model = None
    for _ in range(task["rounds"]):
        sys.stdin.readline()
        model = None
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        seconds, model = timed_load(task, mesh)
        _tell({"seconds": seconds})
    sys.stdin.readline()
    found = (decode_flagai if task["system"] == "flagai" else decode_peer)(task, model)
    _tell(found | {"bytes": local_bytes(model), "copy_bytes_s": bandwidth})
    sys.stdin.readline()
    sys.stdout.flush()
    os._exit(0)  # NCCL may wait for ever for a group that a recorded step still uses


def _tell(found: dict[str, Any]) -> None:
    print("result " + json.dumps(found), flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.get("write"):
        Path(given["folder"]).mkdir(parents=True, exist_ok=True)
        write(given)
    else:
        serve(given)
