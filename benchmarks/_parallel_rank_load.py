"""How one rank of parallel.py loads."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed


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


def timed_load(task: dict[str, Any], mesh: Any) -> tuple[dict[str, Any], Any]:
    """Seconds until the last rank has its part, this rank's phases, and the model."""
    wait(task)
    with phases() as told:
        start = time.perf_counter()
        model = load(task, task["folder"], mesh)
        own = time.perf_counter() - start
    if task["device"] == "cpu":  # views of the file: fetch every page
        for parameter in model.parameters():
            values = getattr(parameter, "_local_tensor", parameter.data).detach()
            values.reshape(-1)[:: 4096 // values.element_size()].sum(dtype=torch.float32)
    wait(task)
    return {"seconds": time.perf_counter() - start, "own": own, "phases": told}, model


@contextmanager
def phases() -> Iterator[list[str]]:
    """What the library tells of its phases meanwhile."""
    told: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, collect = logging.getLogger("flagai.checkpoint"), Collect()
    level = logger.level
    logger.addHandler(collect)
    logger.setLevel(logging.DEBUG)
    try:
        yield told
    finally:
        logger.setLevel(level)
        logger.removeHandler(collect)


def wait(task: dict[str, Any]) -> None:
    if task["device"] != "cpu":
        torch.cuda.synchronize()
    distributed.barrier()
