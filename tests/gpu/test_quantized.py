"""Quantized models on a GPU: recorded steps with the small numbers write what the blocks themselves write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay.step_pool import step_pool
from flagai.model.quantization import how_quantized, quantize
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SIZES: dict[str, dict[str, Any]] = {
    "GLMModel": {"hidden_size": 256, "num_attention_heads": 4, "vocab_size": 300, "spell_length": None},
    "GPT2Model": {"n_embd": 192, "n_head": 3, "n_inner": 384, "vocab_size": 300},
    "T5Model": {"d_model": 128, "d_ff": 256, "d_kv": 32, "vocab_size": 300},
}


@pytest.mark.parametrize(
    "search", [{}, {"num_beams": 4}, {"do_sample": True, "num_return_sequences": 2, "seed": 4}], ids=str
)
@pytest.mark.parametrize("how", ["int8", "int4"])
@pytest.mark.parametrize("name", SIZES)
def test_recorded_steps(name: str, how: str, search: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both follow their own answers, which rounding may separate; so the scores are compared."""
    monkeypatch.setattr("flagai.generation.replay.compile_ahead.PATIENCE", None)
    model = tiny.build(name, **SIZES[name]).cuda().bfloat16()
    quantize(model, how)
    prompts = [Prompt((3, 50, 7, 9)), Prompt((4, 8))]
    fast, plain = (
        generate(model, prompts, Decoding(max_new_tokens=20, **search, cuda_graphs=graphs)) for graphs in (True, False)
    )
    assert name == "T5Model" or all(any("blocks" in name for name in step.kernels) for step in step_pool(model).ready)
    same = [ours[0].ids[:3] == theirs[0].ids[:3] for ours, theirs in zip(fast, plain, strict=True)]
    assert any(same)
    for ours, theirs in zip(fast, plain, strict=True):
        if ours[0].ids == theirs[0].ids:
            assert ours[0].score == pytest.approx(theirs[0].score, rel=0.03, abs=0.3)


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
