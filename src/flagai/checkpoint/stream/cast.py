"""Copy between tensors on the CPU, mostly from a mapped file into new memory of another type, with all cores."""

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from flagai.checkpoint.stream.plan import Copy
from flagai.checkpoint.stream.readers import available_cores

# 1 and 4 MB were equally good, 16 and 64 MB slower: small beside a core's share, large beside the cost of a call.
_PART_BYTES = 4 << 20
# torch has no vector code between the half types: 1.1 ns per element, and 0.25 through float32 in a core's own cache.
_HALVES = frozenset({torch.float16, torch.bfloat16})
FLOAT32_ELEMENTS = 1 << 18


def cast(copies: Sequence[Copy]) -> None:
    """Copy with plain threads, each with parts of its own; types and orders of dimensions may differ.

    torch's own threads share out one tensor after the other, and wait for each other at each: they take half as long
    again. The cost of a cast is the new memory, more than the arithmetic.
    """
    parts = iter([part for copy in copies for part in copy.split(_PART_BYTES)])  # all threads take from it
    inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            _copy(parts)

    with ThreadPoolExecutor(available_cores(), "flagai-cast") as pool:
        for done in [pool.submit(work) for _ in range(available_cores())]:
            done.result()


def _copy(parts: Iterator[Copy]) -> None:
    torch.get_num_threads()  # the number is set once for each thread, at its first use of torch
    with suppress(AttributeError, OSError, TypeError):  # other systems, other names
        ctypes.CDLL(None).omp_set_num_threads(1)  # the other cores have parts of their own
    buffer = torch.empty(FLOAT32_ELEMENTS)
    for part in parts:
        if {part.source.dtype, part.target.dtype} != _HALVES:
            part.target.copy_(part.source)
            continue
        for small in part.split(FLOAT32_ELEMENTS * part.source.itemsize):
            source = small.source
            if source.numel() <= buffer.numel():  # else a single long row of a slice
                source = buffer[: source.numel()].view(source.shape).copy_(source)  # exact for both types
            small.target.copy_(source)
