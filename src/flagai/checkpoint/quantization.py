"""Weights of 8 and of 4 bits: a half and a quarter of the size of float16.

of 8 bits, a file holds ``name`` as int8, [rows, ...], and ``name.scale`` as float32, [rows]; a row's values are its
numbers times its scale.

Of 4 bits, it holds ``name`` as int32, [rows, columns / 8], and ``name.scale`` as int32, [rows, groups]. A group of
neighbours in a row shares a scale and a minimum: two bfloat16 in one word of the scale, the step in the low half. A
value is its number, 0 to 15, times the step, plus the least. The i-th word of a group holds every ``group / 8``-th of
its numbers from the i-th on, the first in the lowest bits: so neighbouring numbers come from the same bits of
neighbouring words, and are unpacked together.

A model that is not quantized gets them dequantized when the file is opened.

Sources: Shen et al. 2020, "Q-BERT: Hessian Based Ultra Low Precision Quantization of BERT" (groups); Banner et al.
2019, "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment" (clipping).
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from flagai.device_support import has_bfloat16
from flagai.errors import CheckpointError

# What follows the name of a quantized tensor in the name of its scale.
SCALE = ".scale"
_PACKED = (torch.int8, torch.int32)
_LARGEST = 127
# Smaller matrices, and vectors, are not worth it.
_FEWEST = 4096
# Numbers that share a step in 4 bits: as many as divide a row, so that large rows get large groups.
GROUPS = (128, 64, 32)
_IN_WORD = 8
_MOST = 15
# How far a group's ends are drawn in to make the steps smaller; the one with the least error is taken.
CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Values that are quantized at once: temporary tensors stay small beside the model.
_AT_ONCE = 1 << 24


def quantize_int8(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of any floating-point type as int8, and each row's scale.

    Shape:
        [rows, columns] -> [rows, columns] int8; [rows] float32
    """
    rows = matrix.float()
    scale = (rows.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scale[:, None]).round().to(torch.int8), scale


def group_size(columns: int) -> int | None:
    """How many numbers of a row share a step in 4 bits; None if such rows cannot be packed."""
    return next((group for group in GROUPS if columns % group == 0), None)


def quantize_int4(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of any floating-point type as words of eight numbers, and each group's scale and minimum.

    Shape:
        [rows, columns], 32 divides the columns -> [rows, columns / 8] int32; [rows, groups] int32
    """
    place = matrix.device if has_bfloat16(matrix.device) else torch.device("cpu")
    parts = matrix.to(place).split(max(1, _AT_ONCE // matrix.shape[1]))
    words, scale = zip(*(_quantize_int4(part.float()) for part in parts), strict=True)
    return torch.cat(words).to(matrix.device), torch.cat(scale).to(matrix.device)


def _quantize_int4(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    group = group_size(matrix.shape[1])
    if group is None:
        raise ValueError(f"{matrix.shape[1]} columns cannot be cut into groups of {GROUPS}")
    groups = matrix.unflatten(1, (-1, group))
    lowest, highest = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    span = (highest - lowest).clamp(min=torch.finfo(torch.float32).tiny)
    best = torch.full_like(lowest, torch.inf)
    step, least = torch.ones_like(lowest), lowest
    for share in CLIP_RATIOS:
        width = (span * (share / _MOST)).bfloat16().float()
        # A group of one value keeps it: zeros stay zeros.
        begin = torch.where(highest == lowest, lowest, (highest + lowest - _MOST * width) / 2).bfloat16().float()
        error = ((_numbers(groups, width, begin) * width + begin - groups) / span).square().sum(2, keepdim=True)
        better = error < best
        best, step, least = (
            torch.where(better, new, old) for new, old in ((error, best), (width, step), (begin, least))
        )
    numbers = _numbers(groups, step, least).to(torch.int32).unflatten(2, (_IN_WORD, -1))
    shifts = 4 * torch.arange(_IN_WORD, dtype=torch.int32, device=matrix.device)[:, None]
    words = (numbers << shifts).sum(2, dtype=torch.int32).flatten(1)
    pairs = torch.cat([step, least], dim=2).bfloat16().view(torch.int32)
    return words, pairs.flatten(1)


def _numbers(groups: torch.Tensor, step: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return ((groups - least) / step).round().clamp(0, _MOST)


def dequantize(numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The values of a quantized tensor, in float32, by the scale of :func:`quantize_int8` or :func:`quantize_int4`."""
    if numbers.dtype == torch.int8:
        return numbers.float() * scale.float().view(-1, *[1] * (numbers.dim() - 1))
    step, least = scales_and_minima(scale)
    values = unpack_int4(numbers, scale).unflatten(1, (scale.shape[1], -1))
    return (values * step[:, :, None] + least[:, :, None]).flatten(1)


def scales_and_minima(scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each group's scale and minimum, two of [rows, groups] in float32."""
    return (scale << 16).view(torch.float32), (scale & -65536).view(torch.float32)  # also where there is no bfloat16


def unpack_int4(words: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The numbers in words of 4 bits, 0 to 15, [rows, columns] int32."""
    shifts = 4 * torch.arange(_IN_WORD, dtype=torch.int32, device=words.device)[:, None]
    return ((words.unflatten(1, (scale.shape[1], 1, -1)) >> shifts) & _MOST).flatten(1)


def quantize_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with their scales; everything else as it is."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and tensor.numel() >= _FEWEST:
            result[name], result[name + SCALE] = quantize_int8(tensor)
    return result


def dequantize_tensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a path with those of 8 and 4 bits turned into float32; without any, the same dictionary.

    Raises:
        CheckpointError: a scale does not fit its matrix.
    """
    for name in [name for name, tensor in tensors.items() if tensor.dtype in _PACKED and name + SCALE in tensors]:
        whole, scale = tensors[name], tensors.pop(name + SCALE)
        if not _is_scale(whole, scale):
            expected = "one number a row" if whole.dtype == torch.int8 else "one int32 for each group of a row"
            raise CheckpointError(
                f"{path}: {name!r} is {list(whole.shape)}, but its scale {list(scale.shape)} {scale.dtype}; expected "
                f"{expected}. Download the file again."
            )
        if whole.dtype == torch.int8:  # an expanded tensor stays one: the file has no more values
            tensors[name] = dequantize(_distinct(whole), _distinct(scale)).expand(whole.shape)
        else:
            tensors[name] = dequantize(whole, scale)
    return tensors


def _distinct(tensor: torch.Tensor) -> torch.Tensor:
    """An expanded tensor without its repetitions: extents with a stride of 0 become 1."""
    return tensor[tuple(slice(None) if step else slice(1) for step in tensor.stride())]


def _is_scale(whole: torch.Tensor, scale: torch.Tensor) -> bool:
    if whole.dtype == torch.int8:
        fits = bool(whole.dim()) and scale.is_floating_point() and scale.shape == whole.shape[:1]
        return fits and (whole.stride(0) > 0 or scale.stride(0) == 0 or len(scale) == 1)  # else rows are made of one
    if any(step == 0 for step in (*whole.stride(), *scale.stride())):
        return False
    if whole.dim() != 2 or scale.dim() != 2 or scale.dtype != torch.int32 or len(whole) != len(scale):
        return False
    return whole.shape[1] * _IN_WORD in [scale.shape[1] * group for group in GROUPS]
