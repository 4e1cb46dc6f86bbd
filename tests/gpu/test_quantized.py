"""Quantized models on a GPU: steps with the small numbers compute what the blocks themselves compute."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.model.layer.kernel_choice import jit_kernels, only_kernels
from flagai.model.quantization import how_quantized, quantize
from tests import tiny
from tests.kernels.steps import decode

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SIZES: dict[str, dict[str, Any]] = {
    "GLMModel": {"hidden_size": 256, "num_attention_heads": 4, "vocab_size": 300, "spell_length": None},
    "GPT2Model": {"n_embd": 192, "n_head": 3, "n_inner": 384, "vocab_size": 300},
}


@torch.inference_mode()
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("how", ["int8", "int4"])
@pytest.mark.parametrize("name", SIZES)
def test_steps(name: str, how: str, lanes: int) -> None:
    """By kernels as by the blocks themselves, with tokens that are given: rounding does not add up."""
    model, found = tiny.build(name, **SIZES[name]).cuda().bfloat16(), []
    quantize(model, how)
    for names in ((), ("decode.select.fused_blocks", "decode.quantized_ops.quantized_linear_triton")):
        torch.manual_seed(0)
        with jit_kernels() as used, only_kernels(*names):
            found.append(decode(model, (3, 50, 7, 9), lanes, 8))
        assert used == set(names[:1])
    assert (found[0] - found[1]).float().norm() < 0.05 * found[0].float().norm()


@pytest.mark.parametrize("how", ["int8", "int4"])
def test_loading_takes_the_memory_of_the_small_model(how: str, tmp_path: Path) -> None:
    sizes = {**SIZES["GLMModel"], "hidden_size": 1024, "num_layers": 6}
    tiny.build("GLMModel", **sizes).save_pretrained(tmp_path)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = tiny.CLASSES["GLMModel"].from_pretrained(tmp_path, quantize=how, device="cuda", dtype="bfloat16")
    peak = torch.cuda.max_memory_allocated() - before
    held = sum(parameter.nbytes for parameter in model.parameters())
    largest = 4 * 1024 * 1024 * 4  # of one layer, as float32
    assert how_quantized(model) == how
    assert peak < held + 12 * largest
    plain = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert held < plain / (3 if how == "int8" else 5)
    model.save_pretrained(tmp_path / "small")
    again = tiny.CLASSES["GLMModel"].from_pretrained(tmp_path / "small", device="cuda")
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
