"""What to lower when a training does not fit into memory."""

import contextlib
from collections.abc import Iterator

import torch

from flagai.errors import FlagAIError, InputError
from flagai.train.recipe import Recipe

# A process that makes batches was ended by the system.
_WORKER = "DataLoader worker"
# Torch has no type of its own for what a CPU's memory, or a library on a GPU, refuses.
_REFUSALS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_ALLOC_FAILED",
    "Cannot allocate memory",
    _WORKER,
)


@contextlib.contextmanager
def memory_advice(recipe: Recipe) -> Iterator[None]:
    """Where the body runs out of memory, say what to lower.

    Args:
        recipe: how the body trains.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).strip().split("\n")[0]
        cures = ["--workers 0 (or fewer)"] if _WORKER in first else _cures(recipe)
        raise InputError(f"Out of memory ({first}). Try one of: {'; '.join(cures)}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, Python or the system refused memory."""
    if isinstance(error, FlagAIError):
        return False
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _REFUSALS)


def _cures(recipe: Recipe) -> list[str]:
    accumulate = f"raise --accumulate ({recipe.accumulate}) by the same factor to learn alike"
    cures = [
        f"lower --batch-tokens (now {recipe.batch_tokens}) and {accumulate}",
        f"lower --max-length (now {recipe.max_length})",
    ]
    if not recipe.checkpoint_activations:
        cures.append("--checkpoint-activations")
    if not recipe.lora_rank and not recipe.fsdp:
        cures += ["--lora 8 (adapters only)", "--fsdp over several GPUs"]
    return [*cures, "ACCELERATE_MIXED_PRECISION=bf16", "a smaller model"]
