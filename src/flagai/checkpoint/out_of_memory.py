"""Say what was loaded, what is needed and what to lower where memory ran out."""

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from flagai.errors import CheckpointError, FlagAIError, InputError

# Torch has no class for what a CPU's allocator, a library on a GPU, or the system (a worker that it ended) refuses.
_REFUSALS = ("allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED", "DataLoader worker")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the host or of a device ran out."""
    if isinstance(error, FlagAIError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _REFUSALS)


@contextmanager
def memory_advised(advice: Callable[[str], str], kind: type[FlagAIError] = InputError) -> Iterator[None]:
    """Where the body runs out of memory, say what to lower: ``advice`` of the original message's first line.

    Raises:
        FlagAIError: of the given kind: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise kind(advice(f"{str(error).strip().partition(chr(10))[0]:.200}")) from error


def memory_explained(
    target: str, needed: int, device: torch.device, done: Callable[[], str]
) -> AbstractContextManager[None]:
    """The same for a load.

    Args:
        target: what gets the memory.
        needed: the bytes of its parameters.
        device: where they are placed.
        done: says how far it came.
    """

    def advice(_: str) -> str:
        free = ""
        if device.type == "cuda":
            left, total = torch.cuda.mem_get_info(device)
            free = f" Free: {left / 1e9:,.2f} of {total / 1e9:,.2f} GB."
        return (
            f"The memory of {device} does not hold {target}: its parameters take {needed / 1e9:,.2f} GB. {done()}"
            f"{free} Name a smaller dtype, such as dtype='bfloat16', quantize='int8' or 'int4', another device, or "
            "spread the model over processes with mesh='auto'."
        )

    return memory_advised(advice, CheckpointError)
