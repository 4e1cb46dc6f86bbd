"""Batches in time: other processes make them while the device computes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from flagai.data.prepare.batch import Batch

# More processes do not make batches faster than a GPU uses them.
_MOST_WORKERS = 12
_AHEAD = 4
Spec = tuple[list[int], int]
Make = Callable[[list[int], int], Batch]


class _Made(Dataset[dict[str, Any]]):
    """Batches by what is in them.

    Args:
        make: makes a batch of indices and a seed.
    """

    def __init__(self, make: Make) -> None:
        self.make = make

    def __getitem__(self, spec: Spec) -> dict[str, Any]:
        """As arrays, which go through a pipe: shared memory is small on some machines."""
        return {name: tensor.numpy() for name, tensor in self.make(*spec).items()}


def feed(make: Make, specs: Sequence[Spec], workers: int) -> Iterator[Batch]:
    """Batches in the order of their specifications.

    Args:
        make: makes a batch of indices and a seed.
        specs: the indices and the seed of every batch.
        workers: processes that make batches; 0: this one.
    """
    loader = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=specs,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        multiprocessing_context="fork" if workers else None,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the global one is the model's: a run that continues draws the same numbers
    )
    for arrays in loader:
        yield {name: torch.from_numpy(array) for name, array in arrays.items()}


def _as_it_is(batch: Any) -> Any:
    return batch


def workers_for(device: torch.device, asked: int | None) -> int:
    """How many processes make batches: on a GPU as many as there are cores to spare, else none."""
    if asked is not None:
        return asked
    if device.type != "cuda" or not hasattr(os, "fork"):
        return 0
    return max(0, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) - 2))
