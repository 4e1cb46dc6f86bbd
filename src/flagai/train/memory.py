"""What to lower when a training does not fit into memory."""

from contextlib import AbstractContextManager

from flagai.checkpoint.out_of_memory import memory_advised
from flagai.train.recipe import Recipe


def memory_advice(recipe: Recipe) -> AbstractContextManager[None]:
    """Where the body runs out of memory, raise an InputError that says what to lower.

    Args:
        recipe: how the body trains.
    """

    def advice(first: str) -> str:
        cures = ["--workers 0 (or fewer)"] if "DataLoader worker" in first else _cures(recipe)
        return f"Out of memory ({first}). Try one of: {'; '.join(cures)}."

    return memory_advised(advice)


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
