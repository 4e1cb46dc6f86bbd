"""Weights of 8 bits: small, close to the original, read like any other."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.quantization import quantize_tensors
from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.save import write_quantized
from flagai.errors import CheckpointError


def test_every_value_is_within_half_a_step_of_its_row(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = torch.randn(80, 64) * torch.logspace(-3, 1, 80)[:, None]
    weights[3] = 0
    vector = torch.randn(64)
    write_quantized(tmp_path / "model.safetensors", {"a.weight": weights, "a.bias": vector})
    read = open_checkpoint(tmp_path)
    assert list(read) == ["a.weight", "a.bias"] or set(read) == {"a.weight", "a.bias"}
    found = read.tensors("a.weight")[0]
    assert read.dtypes == [torch.float32]
    assert torch.equal(read.tensors("a.bias")[0], vector)
    step = weights.abs().amax(1, keepdim=True) / 127
    assert ((found - weights).abs() <= step * 0.501).all()
    assert (tmp_path / "model.safetensors").stat().st_size < weights.numel() * 1.3


def test_a_scale_of_another_shape_is_refused(tmp_path: Path) -> None:
    tensors = quantize_tensors({"a.weight": torch.randn(80, 64)})
    tensors["a.weight.scale"] = tensors["a.weight.scale"][:-1]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'a.weight' is \[80, 64\], but its scale \[79\]"):
        open_checkpoint(tmp_path)


def test_plain_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    save_file({"counts": torch.arange(9, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).tensors("counts")[0].dtype == torch.int8
