"""Copy between tensors on the CPU, mostly from a mapped file into new memory of another type, with all cores."""

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from flagai.checkpoint.stream.memory import Span, Supply, extent
from flagai.checkpoint.stream.plan import Move
from flagai.checkpoint.stream.readers import cores

# 1 and 4 MB were equally good, 16 and 64 MB slower: small beside a core's share, large beside the cost of a call.
_CHUNK = 4 << 20
# torch has no vector code between the half types: 1.1 ns an element, and 0.25 through float32 in a core's own cache.
_HALVES = frozenset({torch.float16, torch.bfloat16})
_BETWEEN = 1 << 18


def cast(moves: Sequence[Move]) -> None:
    """Copy with plain threads, each with pieces of its own.

    torch's own threads share out one tensor after the other, and wait for each other at each: they take half as long
    again. What a cast costs is the new memory, more than the arithmetic: see
    :class:`flagai.checkpoint.stream.memory.Supply`.

    Args:
        moves: the copies; types and orders of dimensions may differ.
    """
    pieces = iter([(extent(move.target), piece) for move in moves for piece in move.cut(_CHUNK)])
    supply = Supply()
    inference = torch.is_inference_mode_enabled()  # a mode of the thread, which targets may depend on

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            _copy(pieces, supply)

    with ThreadPoolExecutor(cores(), "flagai-cast") as pool:
        for done in [pool.submit(work) for _ in range(cores())]:
            done.result()


def _copy(pieces: Iterator[tuple[Span, Move]], supply: Supply) -> None:
    """Do what is left to do; all threads take from the same list."""
    _alone()
    between = torch.empty(_BETWEEN)
    for whole, piece in pieces:
        supply.provide(extent(piece.target), whole)
        if {piece.source.dtype, piece.target.dtype} == _HALVES:
            for part in piece.cut(_BETWEEN * piece.source.itemsize):
                _through(between, part)
        else:
            piece.target.copy_(piece.source)


def _alone() -> None:
    """Keep torch from sharing out the copies of this thread: the other cores have pieces of their own."""
    torch.get_num_threads()  # the number is set once for each thread, at its first use of torch
    with suppress(AttributeError, OSError, TypeError):  # other systems, other names
        ctypes.CDLL(None).omp_set_num_threads(1)


def _through(between: torch.Tensor, piece: Move) -> None:
    """Copy by way of a buffer in float32, which holds both half types exactly."""
    if piece.source.numel() > between.numel():  # a single long row of a window
        piece.target.copy_(piece.source)
        return
    wide = between[: piece.source.numel()].view(piece.source.shape)
    piece.target.copy_(wide.copy_(piece.source))
