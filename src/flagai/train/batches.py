"""Batches: which records come together, and other processes that make them while the device computes."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from flagai.data.prepare.batch import Batch
from flagai.model.layer import PackedRow
from flagai.model.layer.packed_row import on_device
from flagai.system import LINUX, usable_cores

# More processes do not make batches faster than a GPU uses them.
_MOST_WORKERS = 12
_PREFETCHED = 4
Spec = tuple[list[int], int]
MakeBatch = Callable[[list[int], int], Batch]


def batches(
    lengths: Sequence[int], max_tokens: int, seed: int, *, shuffled: bool = True, padded: bool = True
) -> list[list[int]]:
    """Cut records into batches.

    Args:
        lengths: the number of tokens of each record.
        max_tokens: how many tokens, padding included, a batch may have; a longer record is a batch of its own.
        seed: of the order; the same seed gives the same batches.
        shuffled: whether batches come in random order; else by length.
        padded: whether the texts of a batch are as long as its longest; else they have no padding that counts.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    # Equal lengths in random order, and neighbours mixed a little, so that no two epochs have the same batches.
    keys = [length * chance.uniform(0.9, 1.1) if shuffled else length for length in lengths]
    found: list[list[int]] = []
    widest = total = 0
    for index in sorted(range(len(lengths)), key=keys.__getitem__):
        widest, total = max(widest, lengths[index]), total + lengths[index]
        if not found or ((len(found[-1]) + 1) * widest if padded else total) > max_tokens:
            found.append([])
            widest = total = lengths[index]
        found[-1].append(index)
    if shuffled:
        chance.shuffle(found)
    return found


def packed(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch of an encoder without its padding: one row of texts, the longest first.

    Shape:
        ``input_ids``, ``segment_ids``, ``attention_mask`` [B, S]; ``labels`` [B], [B, S] or [B, C, S, S]
        -> ``input_ids``, ``segment_ids`` [1, T] and ``lengths`` [B]; ``labels`` [B], [1, T] or [B, C, S, S]
    """
    order = batch["attention_mask"].sum(1).argsort(descending=True, stable=True)
    batch = {name: tensor[order] for name, tensor in batch.items()}
    real = batch.pop("attention_mask").bool()
    rows = {name: tensor[real][None] if tensor.shape == real.shape else tensor for name, tensor in batch.items()}
    return {**rows, "lengths": real.sum(1)}


def placed(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch on the device; the lengths of packed texts stay on the host."""
    lengths = batch.get("lengths")
    moved = {name: on_device(tensor, device) for name, tensor in batch.items() if name != "lengths"}
    return moved if lengths is None else moved | {"lengths": PackedRow.of(lengths)}


def target_count(batch: Batch) -> int:
    """How many targets a batch has, by which its loss counts in a mean over batches."""
    if "loss_mask" in batch:
        return int(batch["loss_mask"].sum())
    labels = batch["labels"]
    unmasked = "attention_mask" not in batch and "lengths" not in batch  # nor packed
    if "segment_ids" in batch and unmasked:  # UniLM, whose labels are all next tokens
        return int(batch["segment_ids"][:, 1:].sum())
    return len(labels) if labels.dim() == 4 else int((labels != -100).sum())


class _Batches(Dataset[dict[str, Any]]):
    """Batches by their specifications, as arrays for a pipe: shared memory is small on some machines."""

    def __init__(self, make: MakeBatch) -> None:
        self.make = make

    def __getitem__(self, spec: Spec) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in self.make(*spec).items()}


def load_batches(make: MakeBatch, specs: Sequence[Spec], workers: int) -> Iterator[Batch]:
    """Batches in the order of their specifications, which ``make`` takes, by so many processes (0: this one)."""
    loader = DataLoader(
        _Batches(make),
        batch_size=None,
        sampler=specs,
        num_workers=workers,
        prefetch_factor=_PREFETCHED if workers else None,
        multiprocessing_context=start_method() if workers else None,
        collate_fn=_as_they_are,
        generator=torch.Generator(),  # the global one is the model's: a run that continues draws the same numbers
    )
    for arrays in loader:
        yield {name: torch.from_numpy(array) for name, array in arrays.items()}


def _as_they_are(arrays: Any) -> Any:
    return arrays


def start_method() -> str:
    """How processes begin that make batches: as copies of this one, where the system is Linux, else anew."""
    return "fork" if LINUX else "spawn"  # a copy of a process that has used Apple's libraries dies


def worker_count(device: torch.device, asked: int | None) -> int:
    """How many processes make batches: on a GPU as many as there are cores to spare, else none."""
    if asked is not None:
        return asked
    if device.type != "cuda" or start_method() != "fork":  # others take seconds to begin, in each epoch
        return 0
    return max(0, min(_MOST_WORKERS, usable_cores() - 2))
