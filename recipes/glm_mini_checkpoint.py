"""Small checkpoints from which a run continues exactly.

Writing one rounds the run's own parameters and moments to what the file holds. So the run that goes on and one that
starts from the file are the same run, though the file has less than two bytes a parameter instead of twelve. At the
highest learning rate the rounding is smaller than one step.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flagai.checkpoint.atomic import replace_file

# Bits of a parameter, of a first moment, and of the root of a second moment; values that share a scale.
_BITS = {"parameter": 8, "first": 4, "second": 8}
_GROUP = 128


def save(path: Path, tensors: Iterable[tuple[str, torch.Tensor]], facts: Mapping[str, object]) -> None:
    """Write a checkpoint, and round the tensors to it.

    Args:
        path: the file.
        tensors: by names that begin with ``parameter.``, ``first.`` or ``second.``.
        facts: what JSON can hold.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        kind = name.split(".", 1)[0]
        codes, scales = _coded(tensor.detach(), kind)
        stored[f"{name}:scales"] = scales.cpu()
        stored[f"{name}:codes"] = _packed(codes.cpu(), _BITS[kind])
        tensor.data.copy_(_decoded(codes, scales, kind, tensor.shape))
    with replace_file(path) as temporary:
        save_file(stored, temporary, metadata={"facts": json.dumps(facts)})


def load(path: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, object]:
    """Read a checkpoint into the tensors, and return its facts."""
    stored = load_file(path)
    for name, tensor in tensors:
        kind = name.split(".", 1)[0]
        scales = stored[f"{name}:scales"]
        codes = _unpacked(stored[f"{name}:codes"], _BITS[kind])
        device = tensor.device
        tensor.data.copy_(_decoded(codes.to(device), scales.to(device), kind, tensor.shape))
    with safe_open(path, "pt") as file:
        facts: dict[str, object] = json.loads(file.metadata()["facts"])
    return facts


def _coded(tensor: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers from 0 in groups, and the scale of each group."""
    flat = tensor.flatten().float()
    flat = flat.sqrt() if kind == "second" else flat
    groups = torch.nn.functional.pad(flat, (0, -flat.numel() % _GROUP)).view(-1, _GROUP)
    most = _most(kind)
    scales = (groups.abs().amax(1, keepdim=True) / most).clamp(min=1e-30)
    codes = (groups / scales).round()
    low = 1 if kind == "second" else -most  # a second moment of 0 would make steps far too large
    return (codes.clamp(min=low) - _lowest(kind)).to(torch.uint8), scales


def _decoded(codes: torch.Tensor, scales: torch.Tensor, kind: str, shape: torch.Size) -> torch.Tensor:
    values = ((codes.float() + _lowest(kind)) * scales).flatten()[: shape.numel()].view(shape)
    return values.square() if kind == "second" else values


def _most(kind: str) -> int:
    return 2 ** _BITS[kind] - 1 if kind == "second" else 2 ** (_BITS[kind] - 1) - 1


def _lowest(kind: str) -> int:
    return 0 if kind == "second" else -_most(kind)


def _packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Two codes of four bits share a byte."""
    return codes if bits == 8 else codes[:, ::2] | codes[:, 1::2] << 4


def _unpacked(data: torch.Tensor, bits: int) -> torch.Tensor:
    return data if bits == 8 else torch.stack([data & 15, data >> 4], -1).flatten(1)
