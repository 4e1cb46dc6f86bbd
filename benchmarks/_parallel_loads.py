"""What else a load of parallel.py could be made of: other rings of buffers, no swaps, and whole replicas."""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

# Readers, buffers of each, and megabytes of a buffer.
_RINGS = ((16, 2, 4), (8, 2, 4), (12, 2, 4), (24, 2, 4), (16, 3, 4), (16, 2, 2), (16, 4, 2), (16, 2, 8), (16, 2, 16))
Load = Callable[[Any], tuple[dict[str, Any], Any]]


def other_loads(load: Load, mesh: Any, ranks: int, device: str) -> dict[str, Any]:
    """Seconds of loading in other ways.

    Args:
        load: loads on a mesh, and tells how long it took.
        mesh: of tensor parallelism.
        ranks: how many there are.
        device: their kind.
    """
    from flagai.checkpoint.stream import readers as stream
    from flagai.checkpoint.stream import transfer
    from flagai.parallel.sharding import Sharding
    from flagai.parallel.world import make_mesh

    found: dict[str, Any] = {}

    def timed(name: str, on: Any) -> None:
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        told, _ = load(on)
        found[name] = [round(told["seconds"], 3), *[line for line in told["phases"] if "ms until" in line]]

    timed("as it is", mesh)
    kept = stream.ReaderOptions, stream.available_cores
    stream.available_cores = lambda: 64
    try:
        for readers, buffers, megabytes in _RINGS:
            stream.ReaderOptions = partial(  # type: ignore[misc]
                kept[0], readers=readers, buffers=buffers, buffer_bytes=megabytes << 20
            )
            timed(f"{readers} readers, {buffers} buffers of {megabytes} MB", mesh)
    finally:
        stream.ReaderOptions, stream.available_cores = kept  # type: ignore[misc]
    exchanges_on = transfer.exchanges_on
    transfer.exchanges_on = lambda _: False
    try:
        timed("windows of rows, no swaps", mesh)
    finally:
        transfer.exchanges_on = exchanges_on
    replicas = make_mesh(device, dp=ranks, tp=1)
    timed("replicas that gather", replicas)
    timed("replicas that gather, again", replicas)
    kept_property = Sharding.replicas
    Sharding.replicas = None  # type: ignore[assignment]
    try:
        timed("replicas that read all", replicas)
    finally:
        Sharding.replicas = kept_property  # type: ignore[method-assign]
    return found
