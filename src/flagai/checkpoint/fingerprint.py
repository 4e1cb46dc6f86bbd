"""Tell two checkpoints of one architecture apart without reading all of them."""

import hashlib

import torch

from flagai.checkpoint.reader import Checkpoint

# Values that are looked at in each of so many places of a tensor: a training step changes all of them.
_PLACES = 4
_VALUES = 32


def fingerprint(checkpoint: Checkpoint) -> str:
    """Names, shapes, types and a few values of every tensor; two models of one kind differ in the values."""
    total = hashlib.blake2b(digest_size=16)
    for part in checkpoint.parts:
        for name, tensor in sorted(part.items()):
            total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(errors="surrogatepass"))
            total.update(_sample(tensor))
    return total.hexdigest()


def _sample(tensor: torch.Tensor) -> bytes:
    """Some values, from everywhere in a tensor; of a matrix in rows that lie apart, those of the first column."""
    while tensor.dim() > 1 and not tensor.is_contiguous():
        tensor = tensor.select(tensor.dim() - 1, 0) if tensor.shape[-1] else tensor.flatten()
    values = tensor.reshape(-1)
    step = max(1, len(values) // _PLACES)
    pieces = [values[begin : begin + _VALUES] for begin in range(0, len(values), step)]
    return b"".join(piece.contiguous().view(torch.uint8).numpy().tobytes() for piece in pieces)
