"""Prompts of like length are read together: the padding of a mixed batch is not computed."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from flagai.generation.types import StepOutput
from flagai.model.layer.cache import CacheRows, KVCache

# What a call costs besides its rows, in rows for each core: matmuls are slower for few, and read all weights again.
# Measured with two cores: a row takes 0.2 ms in groups of 146 rows, 0.19 from 256 on.
_CALL = 32


def like_length(lengths: Sequence[int], cores: int) -> list[list[int]]:
    """Divide prompts into the groups that are cheapest to read, each padded to its longest prompt.

    Args:
        lengths: of the prompts.
        cores: number of cores that compute them.

    Returns:
        The numbers of the prompts in each group.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    # Of the first prompts in that order: the least cost, and how many of them the last group begins after.
    best = [(0, 0)]
    for end in range(1, len(order) + 1):
        best.append(
            min((best[start][0] + (end - start) * lengths[order[start]] + _CALL * cores, start) for start in range(end))
        )
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups


def read_apart(
    groups: Sequence[Sequence[int]],
    lengths: Sequence[int],
    cache: KVCache,
    read: Callable[[torch.Tensor, int, CacheRows], StepOutput],
) -> StepOutput:
    """Read one group after the other into one cache.

    Args:
        groups: the numbers of the prompts in each, the longest first.
        lengths: of the prompts.
        cache: takes their keys and values; empty.
        read: runs the model over prompts, padded to a length, with a part of the cache.

    Shape:
        -> logits [B, 1, V], hidden states [B, longest, D]; those behind the end of a prompt are undefined.
    """
    longest = max(lengths)
    parts, logits, hidden = [], [], []
    for group in groups:
        part = CacheRows(cache, torch.tensor(group), len(lengths), longest)
        output = read(part.rows, lengths[group[0]], part)
        parts.append(part)
        logits.append(output.logits)
        hidden.append(F.pad(output.hidden, (0, 0, 0, longest - output.hidden.shape[1])))
    cache.join(parts)
    back = torch.cat([part.rows for part in parts]).argsort()
    return StepOutput(torch.cat(logits)[back], torch.cat(hidden)[back])
