"""Equal tensors that lie one behind the other in memory, which one product can take as one matrix."""

from collections.abc import Sequence

import torch


def adjacent(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that equal parts are cut from along the first dimension, without a copy; None if they are not."""
    first = parts[0]
    storage = first.untyped_storage().data_ptr()
    step = len(first) * first.stride(0)
    fits = all(
        part.untyped_storage().data_ptr() == storage
        and part.shape == first.shape
        and part.stride() == first.stride()
        and part.storage_offset() == first.storage_offset() + number * step
        for number, part in enumerate(parts)
    )
    return first.as_strided((len(parts) * len(first), *first.shape[1:]), first.stride()) if fits else None


@torch.no_grad()
def make_adjacent(parts: Sequence[torch.Tensor]) -> None:
    """Move equal tensors behind each other; they stay the same objects, and their former memory is freed.

    Nothing may hold their former addresses, such as a recorded CUDA graph.
    """
    if adjacent(parts) is None:
        with torch.inference_mode(parts[0].is_inference()):  # others may be trained later
            whole = torch.cat([part.detach() for part in parts])
            for part, moved in zip(parts, whole.chunk(len(parts)), strict=True):
                part.data = moved
