"""Weights of 8 and 4 bits: what they hold, that every family computes with them, and that files keep them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.checkpoint.quantization import (
    GROUPS,
    dequantize,
    quantize_int4,
    quantize_int8,
    scales_and_minima,
    unpack_int4,
)
from flagai.checkpoint.save import write_quantized
from flagai.convert import convert
from flagai.doctor import examine
from flagai.errors import CheckpointError, ConfigError, InputError, LoadError
from flagai.generation import Decoding, Prompt, generate
from flagai.model.layer import Linear
from flagai.model.layer.checked_embedding import CheckedEmbedding
from flagai.model.layer.gated_feed_forward import KeepFloat32Linear
from flagai.model.layer.quantized_embedding import QuantizedEmbedding
from flagai.model.layer.quantized_linear import BITS, QuantizedLinear, quantized_linear
from flagai.model.quantization import how_quantized, quantize
from tests import tiny

# Sizes that can be packed; others of a family's tiny model stay.
WIDE: dict[str, dict[str, Any]] = {
    "GLMModel": {"hidden_size": 64, "num_attention_heads": 4, "spell_length": None},
    "GPT2Model": {"n_embd": 64, "n_head": 4, "n_inner": 96},
    "T5Model": {"d_model": 64, "d_ff": 96, "d_kv": 16},
    "BertForMaskLM": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96},
}
HOWS = tuple(BITS)
WAYS = (*HOWS, "int4-all")


def made(name: str, seed: int = 0) -> Any:
    return tiny.build(name, seed, **WIDE[name])


def dequantized(model: Any) -> Any:
    """The same model with ordinary layers that hold the small numbers' values."""
    plain = copy.deepcopy(model)
    for owner in list(plain.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, QuantizedEmbedding):
                table = CheckedEmbedding(layer.num_embeddings, layer.embedding_dim, layer.what)
                table.weight.data = layer.dequantized(torch.float32)
                setattr(owner, name, table)
            elif isinstance(layer, QuantizedLinear):
                wide = (KeepFloat32Linear if layer.wide else Linear)(
                    layer.in_features, layer.out_features, bias=layer.bias is not None
                )
                wide.weight.data = layer.dequantized(torch.float32)
                if layer.bias is not None:
                    wide.bias = nn.Parameter(layer.bias.detach().clone())
                setattr(owner, name, wide)
    return plain


def layers(model: Any) -> list[QuantizedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]


@pytest.mark.parametrize("columns", [32, 64, 96, 256, 384])
def test_four_bits_hold_what_was_packed(columns: int) -> None:
    torch.manual_seed(columns)
    group = next(group for group in GROUPS if columns % group == 0)
    numbers = torch.randint(0, 16, (5, columns // group, group))
    numbers[:, :, 0], numbers[:, :, 1] = 0, 15
    step = (torch.rand(5, columns // group, 1) + 1).bfloat16().float()
    exact = (numbers * step - 8 * step).flatten(1)
    words, scale = quantize_int4(exact)
    assert words.shape == (5, columns // 8)
    assert words.dtype == scale.dtype == torch.int32
    assert scale.shape == (5, columns // group)
    assert torch.equal(unpack_int4(words, scale), numbers.flatten(1).int())
    assert torch.equal(scales_and_minima(scale)[0], step[:, :, 0])
    assert torch.equal(dequantize(words, scale), exact)


def test_the_ith_word_of_a_group_has_the_numbers_at_every_eighth_of_the_group() -> None:
    """Files and kernels agree on this order; a change makes old files unreadable."""
    matrix = torch.zeros(1, 128)
    matrix[0, 0], matrix[0, 127] = -8, 7
    matrix[0, 3 * 16 + 5] = 4  # the fourth nibble of word 5
    words, _ = quantize_int4(matrix)
    assert [(int(words[0, 5]) >> (4 * place)) & 15 for place in range(8)] == [8, 8, 8, 12, 8, 8, 8, 8]


@pytest.mark.parametrize(("pack", "most"), [(quantize_int8, 0.51), (quantize_int4, 0.55)])
def test_errors_are_within_half_a_step(pack: Any, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagai.checkpoint.quantization.CLIP_RATIOS", (1.0,))
    torch.manual_seed(0)
    matrix = torch.randn(40, 256) * torch.logspace(-4, 2, 40)[:, None]
    numbers, scale = pack(matrix)
    step = (
        scale[:, None].expand(40, 256)
        if pack is quantize_int8
        else scales_and_minima(scale)[0].repeat_interleave(128, 1)
    )
    assert ((dequantize(numbers, scale) - matrix).abs() <= most * step).all()


def test_drawing_groups_in_lessens_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 512)
    matrix[::4, ::128] *= 2

    def error() -> float:
        return float((dequantize(*quantize_int4(matrix)) - matrix).square().mean())

    drawn = error()
    monkeypatch.setattr("flagai.checkpoint.quantization.CLIP_RATIOS", (1.0,))
    assert drawn < 0.95 * error()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30, 1e30])
@pytest.mark.parametrize("how", HOWS)
def test_rows_of_one_value(how: str, value: float) -> None:
    layer = nn.Linear(64, 8, bias=False)
    layer.weight.data.fill_(value)
    found = QuantizedLinear.of(layer, BITS[how]).dequantized(torch.float32)
    torch.testing.assert_close(found, layer.weight.data, rtol=5e-3, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", WIDE)
def test_a_model_computes_what_its_widened_form_computes(name: str, how: str) -> None:
    model = made(name)
    original = copy.deepcopy(model)
    quantize(model, how)
    assert layers(model)
    # The table of T5 and of BERT's language model is the head's matrix too, and stays.
    alone = name in ("GLMModel", "GPT2Model")
    assert how_quantized(model) == (how if alone else how.removesuffix("-all"))
    arguments = tiny.batch(name, **WIDE[name])
    found, wanted, before = (each(**arguments)["logits"] for each in (model, dequantized(model), original))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    share = float((found - before).norm() / before.norm())
    assert 0 < share < (0.02 if how == "int8" else 0.3)


@torch.no_grad()
@pytest.mark.parametrize("how", HOWS)
def test_cpu_kernels_follow_weights_that_change(how: str) -> None:
    layer = QuantizedLinear.of(nn.Linear(64, 64), BITS[how])
    hidden = torch.randn(1, 64)
    if quantized_linear.choose(layer, hidden) is quantized_linear.plain:
        pytest.skip("torch has no such kernels")
    before = layer(hidden)
    other = QuantizedLinear.of(nn.Linear(64, 64), BITS[how])
    layer.load_state_dict(other.state_dict())
    assert not torch.allclose(layer(hidden), before)
    torch.testing.assert_close(layer(hidden), other(hidden))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}], ids=str)
@pytest.mark.parametrize("name", ["GLMModel", "GPT2Model", "T5Model"])
def test_writing(name: str, search: dict[str, Any], how: str) -> None:
    model = made(name)
    quantize(model, how)
    prompts = [Prompt((3, 5, 7, 9)), Prompt((4, 8))]
    found, wanted = (
        generate(each, prompts, Decoding(max_new_tokens=6, **search)) for each in (model, dequantized(model))
    )
    assert [row[0].ids for row in found] == [row[0].ids for row in wanted]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", WIDE)
def test_files(name: str, how: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path / "plain")
    model = tiny.CLASSES[name].from_pretrained(tmp_path / "plain", quantize=how)
    model.save_pretrained(tmp_path / "small", max_shard_size="40KB")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["quantized"] == how_quantized(model)
    again = tiny.CLASSES[name].from_pretrained(tmp_path / "small")
    assert how_quantized(again) == how_quantized(model)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    same = tiny.CLASSES[name].from_pretrain(tmp_path, "small", quantize=how_quantized(model))
    torch.testing.assert_close(same.state_dict(), model.state_dict(), atol=0, rtol=0)
    assert not [finding for finding in examine(tmp_path / "small") if finding.problem]
    size = {
        folder: sum(file.stat().st_size for file in (tmp_path / folder).glob("*.safetensors"))
        for folder in ("plain", "small")
    }
    assert size["small"] < 0.7 * size["plain"]
    # An ordinary model takes the dequantized values, and a quantized one its own in place.
    plain = made(name, 3)
    plain.load_weights(tmp_path / "small")
    wanted = dequantized(model)
    torch.testing.assert_close(plain.state_dict(), wanted.state_dict(), atol=0, rtol=0)
    other = made(name, 4)
    quantize(other, how)
    other.load_weights(tmp_path / "small")
    torch.testing.assert_close(other.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_weights_of_eight_bits_are_taken_as_they_were_shipped(tmp_path: Path) -> None:
    """What a recipe has packed in 8 bits, a scale a row, is not rounded a second time."""
    model = made("GLMModel")
    model.save_pretrained(tmp_path)
    write_quantized(tmp_path / "model.safetensors", _tensors(tmp_path))
    found = tiny.CLASSES["GLMModel"].from_pretrained(tmp_path, quantize="int8")
    wanted = tiny.CLASSES["GLMModel"].from_pretrained(tmp_path)
    with torch.no_grad():
        arguments = tiny.batch("GLMModel", **WIDE["GLMModel"])
        torch.testing.assert_close(found(**arguments)["logits"], wanted(**arguments)["logits"], atol=1e-5, rtol=1e-5)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from flagai.checkpoint.reader import open_checkpoint

    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensors(name)[0].clone() for name in checkpoint}


def test_conversion_and_back(tmp_path: Path) -> None:
    model = made("GPT2Model")
    model.save_pretrained(tmp_path / "plain", layout="huggingface")
    done = convert(tmp_path / "plain", tmp_path / "small", quantize="int4", dtype="bfloat16")
    assert (done.layout, done.parameters) == ("flagai", sum(value.numel() for value in model.parameters()))
    small = tiny.CLASSES["GPT2Model"].from_pretrained(tmp_path / "small")
    assert small.embed.token.weight.dtype == torch.bfloat16
    convert(tmp_path / "small", tmp_path / "wide")
    wide = tiny.CLASSES["GPT2Model"].from_pretrained(tmp_path / "wide", dtype="float32")
    assert how_quantized(wide) is None
    for layer, found in zip(
        layers(small), (each for each in wide.blocks.modules() if type(each) is Linear), strict=True
    ):
        torch.testing.assert_close(found.weight.data, layer.dequantized(torch.bfloat16).float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("how", HOWS)
def test_changing_the_type_leaves_the_numbers_alone(how: str) -> None:
    model = made("T5Model")
    quantize(model, how)
    before = [(layer.weight.clone(), layer.weight_scale.clone()) for layer in layers(model)]
    model.half()
    for layer, (numbers, scale) in zip(layers(model), before, strict=True):
        assert torch.equal(layer.weight, numbers)
        assert torch.equal(layer.weight_scale, scale)
        assert layer.dtype == (torch.float32 if layer.wide else torch.float16)
    assert sum(layer.wide for layer in layers(model)) == 5  # T5's last layers, which overflow float16
    logits = model(**tiny.batch("T5Model", **WIDE["T5Model"]))["logits"]
    assert logits.isfinite().all()


def test_what_cannot_be(tmp_path: Path) -> None:
    model = made("GLMModel")
    with pytest.raises(InputError, match=r"quantize='int3' is unknown. Known: int8, int4, int8-all, int4-all"):
        quantize(model, "int3")
    model.save_pretrained(tmp_path / "plain")
    cls = tiny.CLASSES["GLMModel"]
    with pytest.raises(InputError, match="'fp4' is unknown"):
        cls.from_pretrained(tmp_path / "plain", quantize="fp4")
    quantize(model, "int8")
    with pytest.raises(InputError, match="The model is int8 already"):
        quantize(model, "int4")
    with pytest.raises(InputError, match="cannot be trained"):
        model.train()
    with pytest.raises(InputError, match="in the layout 'flagai' only"):
        model.save_pretrained(tmp_path / "other", layout="huggingface")
    model.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="The weights are int8 already; quantize='int4' needs the original ones"):
        cls.from_pretrained(tmp_path / "small", quantize="int4")
    with pytest.raises(LoadError, match="the checkpoint is quantized and the model is not, or the other way round"):
        model.load_weights(tmp_path / "plain")
    config = tmp_path / "small" / "config.json"
    config.write_text(config.read_text().replace('"int8"', '"int5"'))
    with pytest.raises(ConfigError, match=r"quantized=.int5.\. Known: int8, int4, int8-all, int4-all"):
        cls.from_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"Layers with \[12, 48\] inputs cannot be quantized: 32 must divide"):
        quantize(tiny.build("GLMModel"), "int4")


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    words, scale = quantize_int4(torch.randn(8, 128))
    save_file({"a.weight": words, "a.weight.scale": scale.repeat(1, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="one int32 for each group of a row"):
        _tensors(tmp_path)
