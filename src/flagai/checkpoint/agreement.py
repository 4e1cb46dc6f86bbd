"""Ranks that share a model open the same one, or none does."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from flagai.errors import CheckpointError

_TRIES = 5
Opened = TypeVar("Opened")


def open_alike(
    open_one: Callable[[], Opened],
    mark: Callable[[Opened], str],
    groups: Sequence[ProcessGroup],
    device: torch.device,
) -> Opened:
    """Open a model on every rank, again if their files differ: one may have looked before a save, another after it.

    Args:
        open_one: opens this rank's files.
        mark: what must be equal on all ranks.
        groups: the dimensions of the mesh.
        device: where the ranks can reduce tensors.

    Raises:
        CheckpointError: the files differ, or another rank cannot open its files.
    """
    for _ in range(_TRIES):
        opened: list[Opened] = []
        failure: Exception | None = None
        number = 0
        try:
            opened.append(open_one())
            number = int.from_bytes(hashlib.blake2b(mark(opened[0]).encode(), digest_size=7).digest())
        except Exception as error:  # noqa: BLE001 - raised below, when the others are not left waiting
            failure = error
        failed, differ = _compare(number, failure is not None, groups, device)
        if failure is not None:
            raise failure
        if failed:
            raise CheckpointError("Another process could not open its copy of the model; see its message.")
        if not differ:
            return opened[0]
    raise CheckpointError(
        "The processes found different models under the same path. Copy the same files to all machines, or load when "
        "nothing is being saved there."
    )


def _compare(number: int, failed: bool, groups: Sequence[ProcessGroup], device: torch.device) -> tuple[bool, bool]:
    """Whether any rank has failed, and whether any has another number."""
    bounds = torch.tensor([number, -number, int(failed)], device=device)
    for group in groups:
        distributed.all_reduce(bounds, op=distributed.ReduceOp.MAX, group=group)
    largest, smallest, any_failed = bounds.tolist()
    return bool(any_failed), largest != -smallest
