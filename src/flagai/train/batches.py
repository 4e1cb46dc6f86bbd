"""Which records come together: texts of like length, so many as a budget of tokens allows."""

import random
from collections.abc import Sequence

import torch

from flagai.data.prepare.batch import Batch


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

    Args:
        batch: ``input_ids``, ``segment_ids``, ``attention_mask`` [B, S]; ``labels`` [B], [B, S] or [B, C, S, S].

    Returns:
        ``input_ids``, ``segment_ids`` [1, T] and ``lengths`` [B]; ``labels`` [B], [1, T] or [B, C, S, S].
    """
    order = batch["attention_mask"].sum(1).argsort(descending=True, stable=True)
    batch = {name: tensor[order] for name, tensor in batch.items()}
    real = batch.pop("attention_mask").bool()
    rows = {name: tensor[real][None] if tensor.shape == real.shape else tensor for name, tensor in batch.items()}
    return {**rows, "lengths": real.sum(1)}
