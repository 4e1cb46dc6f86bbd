"""Make sure that the ranks that share a model open the same one, or none does."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from flagai.checkpoint.reader import Checkpoint
from flagai.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_TRIES = 5
# A fingerprint takes so many values in each of so many places of a tensor: a training step changes all of them.
_VALUES = 32
_SAMPLES = 4
Result = TypeVar("Result")


def open_consistently(
    open_here: Callable[[], Result],
    mark: Callable[[Result], str],
    groups: "Sequence[ProcessGroup]",
    device: torch.device,
) -> Result:
    """Open a model on every rank, again if their files differ: one may have looked before a save, another after it.

    Args:
        open_here: opens this rank's files.
        mark: what must be equal on all ranks.
        groups: the dimensions of the mesh.
        device: where the ranks can reduce tensors.

    Raises:
        CheckpointError: the files differ, or another rank cannot open its files.
    """
    for _ in range(_TRIES):
        try:
            opened = open_here()
            digest = int.from_bytes(hashlib.blake2b(mark(opened).encode(), digest_size=7).digest())
        except Exception:
            _compare(0, True, groups, device)  # the other ranks are not left waiting
            raise
        failed, differ = _compare(digest, False, groups, device)
        if failed:
            raise CheckpointError("Another process could not open its copy of the model; see its message.")
        if not differ:
            return opened
    raise CheckpointError(
        "The processes found different models under the same path. Copy the same files to all machines, or load when "
        "nothing is being saved there."
    )


def _compare(digest: int, failed: bool, groups: "Sequence[ProcessGroup]", device: torch.device) -> tuple[bool, bool]:
    """Whether any rank has failed, and whether any has another digest."""
    from torch import distributed

    bounds = torch.tensor([digest, -digest, int(failed)], device=device)
    for group in groups:
        distributed.all_reduce(bounds, op=distributed.ReduceOp.MAX, group=group)
    largest, smallest, any_failed = bounds.tolist()
    return bool(any_failed), largest != -smallest


def fingerprint(checkpoint: Checkpoint) -> str:
    """Names, shapes, types and a few values of every tensor; two models of one kind differ in the values."""
    total = hashlib.blake2b(digest_size=16)
    for part in checkpoint.parts:
        for name, tensor in sorted(part.items()):
            total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(errors="surrogatepass"))
            total.update(_sample(tensor))
    return total.hexdigest()


def _sample(tensor: torch.Tensor) -> bytes:
    """Some values, from everywhere in a tensor; of a matrix in rows that lie apart, those of the first column."""
    while tensor.dim() > 1 and not tensor.is_contiguous():
        tensor = tensor.select(tensor.dim() - 1, 0) if tensor.shape[-1] else tensor.flatten()
    values = tensor.reshape(-1)
    step = max(1, len(values) // _SAMPLES)
    samples = [values[begin : begin + _VALUES] for begin in range(0, len(values), step)]
    return b"".join(sample.contiguous().view(torch.uint8).numpy().tobytes() for sample in samples)
