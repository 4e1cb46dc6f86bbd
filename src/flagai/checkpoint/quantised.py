"""Weights of eight bits: a matrix as int8, each row with a scale, half the size of float16.

A file holds ``name`` as int8, [rows, ...], and ``name.scale`` as float32, [rows]; a row's values are its numbers times
its scale. They are widened when the file is opened, so nothing else knows about them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from flagai.checkpoint.atomic import replace_file
from flagai.errors import CheckpointError

_SCALE = ".scale"
_LARGEST = 127
# Smaller matrices, and vectors, are not worth it.
_FEWEST = 4096


def quantised(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with their scales; everything else as it is.

    Args:
        tensors: by name, of any floating-point type.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.numel() < _FEWEST:
            found[name] = tensor
            continue
        rows = tensor.float()
        scale = (rows.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        found[name] = (rows / scale[:, None]).round().to(torch.int8)
        found[name + _SCALE] = scale
    return found


def widened(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Tensors with those of eight bits turned into float32; without any, the same dictionary.

    Args:
        tensors: of one file.
        path: the file, for messages.

    Raises:
        CheckpointError: a scale does not go with its matrix.
    """
    names = [name for name, tensor in tensors.items() if tensor.dtype == torch.int8 and name + _SCALE in tensors]
    for name in names:
        whole, scale = tensors[name], tensors.pop(name + _SCALE)
        if not whole.dim() or not scale.is_floating_point() or scale.shape != whole.shape[:1]:
            raise CheckpointError(
                f"{path}: {name!r} is {list(whole.shape)}, but its scale {list(scale.shape)} {scale.dtype}; expected "
                "one number a row. Fetch the file again."
            )
        tensors[name] = whole.float() * scale.float().view(-1, *[1] * (whole.dim() - 1))
    return tensors


def write_quantised(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file in eight bits, atomically.

    Args:
        path: the file.
        tensors: by name, of any floating-point type.
    """
    from safetensors.torch import save_file

    with replace_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in quantised(tensors).items()}, temporary)
