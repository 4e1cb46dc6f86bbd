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
    """Copy with plain threads, each with parts of its own.

    torch's own threads share out one tensor after the other, and wait for each other at each: they take half as long
    again. The cost of a cast is the new memory, more than the arithmetic.

    Args:
        copies: types and orders of dimensions may differ.
    """
    parts = iter([part for copy in copies for part in copy.split(_PART_BYTES)])
    inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            _copy(parts)

    with ThreadPoolExecutor(available_cores(), "flagai-cast") as pool:
        for done in [pool.submit(work) for _ in range(available_cores())]:
            done.result()


def _copy(parts: Iterator[Copy]) -> None:
    """Do what is left to do; all threads take from the same iterator."""
    _use_one_thread()
    buffer = torch.empty(FLOAT32_ELEMENTS)
    for part in parts:
        if {part.source.dtype, part.target.dtype} == _HALVES:
            for small in part.split(FLOAT32_ELEMENTS * part.source.itemsize):
                _copy_through_float32(buffer, small)
        else:
            part.target.copy_(part.source)


def _use_one_thread() -> None:
    """Keep torch from sharing out the copies of this thread: the other cores have parts of their own."""
    torch.get_num_threads()  # the number is set once for each thread, at its first use of torch
    with suppress(AttributeError, OSError, TypeError):  # other systems, other names
        ctypes.CDLL(None).omp_set_num_threads(1)


def _copy_through_float32(buffer: torch.Tensor, part: Copy) -> None:
    """Copy by way of a buffer in float32, which holds both half types exactly."""
    if part.source.numel() > buffer.numel():  # a single long row of a slice
        part.target.copy_(part.source)
        return
    wide = buffer[: part.source.numel()].view(part.source.shape)
    part.target.copy_(wide.copy_(part.source))
