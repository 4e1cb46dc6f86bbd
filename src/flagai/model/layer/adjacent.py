"""Tensors that lie one behind the other in memory, which one product can take as one matrix."""

from collections.abc import Sequence

import torch


def adjacent(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that parts are cut from along the first dimension, without a copy; None if they are not."""
    first = parts[0]
    storage, offset = first.untyped_storage().data_ptr(), first.storage_offset()
    for part in parts:
        behind = part.untyped_storage().data_ptr() == storage and part.storage_offset() == offset
        if not behind or part.shape[1:] != first.shape[1:] or part.stride() != first.stride():
            return None
        offset += len(part) * first.stride(0)
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


@torch.no_grad()
def make_adjacent(parts: Sequence[torch.Tensor]) -> None:
    """Move tensors behind each other; they stay the same objects, and their former memory is freed.

    Nothing may hold their former addresses, such as a recorded CUDA graph.
    """
    if adjacent(parts) is None:
        with torch.inference_mode(parts[0].is_inference()):  # others may be trained later
            whole = torch.cat([part.detach() for part in parts])
            for part, moved in zip(parts, whole.split([len(part) for part in parts]), strict=True):
                part.data = moved
