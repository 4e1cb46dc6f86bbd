"""The int8 and int4 weights of ChatGLM's repositories, as our own int8 ones.

A file holds ``name`` as int8, [rows, columns] or, of 4 bits, [rows, columns / 2], and ``name_scale`` as float16,
[rows]. A value is its number times its row's scale. Of 4 bits, a byte has two numbers from -8 to 7, the first in its
high half. Their step is float16 and symmetric, ours of 4 bits is bfloat16 and not: they become int8, which is exact.

Source: quantization.py and the C kernels beside it in ChatGLM-6B's repository, neither of which is run here.
"""

import torch

from flagai.checkpoint.reader import Checkpoint
from flagai.errors import CheckpointError

BITS = (4, 8)
_SCALE = "_scale"


def as_int8(checkpoint: Checkpoint, bits: int) -> Checkpoint:
    """A checkpoint whose matrices of so many bits are int8 with a scale in float32 for each row.

    Args:
        checkpoint: the checkpoint, which is not changed.
        bits: one of ``BITS``.

    Raises:
        CheckpointError: no matrix is quantized, or a scale does not fit its matrix.
    """
    return Checkpoint(checkpoint.path, [_part(checkpoint, part, bits) for part in checkpoint.parts])


def _part(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], bits: int) -> dict[str, torch.Tensor]:
    found = dict(tensors)
    names = [name for name in tensors if name + _SCALE in tensors]
    if not names:
        raise CheckpointError(
            f"{checkpoint.path}: config.json says quantization_bit={bits}, but no tensor has a scale. Correct it to 0, "
            "and load with quantize= for quantized weights."
        )
    for name in names:
        numbers, scale = tensors[name], tensors[name + _SCALE]
        if numbers.dtype != torch.int8 or numbers.dim() != 2 or scale.shape != numbers.shape[:1]:
            raise CheckpointError(
                f"{checkpoint.path}: {name!r} is {list(numbers.shape)} {numbers.dtype} and its scale "
                f"{list(scale.shape)}; expected int8 and one scale a row. Download the file again."
            )
        found[name] = _unpacked(numbers) if bits == 4 else numbers
        found[name + _SCALE] = scale.float()
    return found


def _unpacked(numbers: torch.Tensor) -> torch.Tensor:
    """[rows, columns / 2] -> [rows, columns], the sign of each half kept."""
    return torch.stack([numbers >> 4, (numbers << 4) >> 4], dim=-1).flatten(1)
