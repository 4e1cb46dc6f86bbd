"""Tensors are found whatever prefix, spelling or order their names have."""

import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flagai.errors import ConfigError
from flagai.model.gpt2_model import GPT2Model
from tests.checkpoint.making import equal, saved, tensors

PREFIXES = {
    "GLMModel": ["", "module.", "model.", "glm.", "module.model.", "module.glm.", "module.module.model."],
    "BertModel": ["", "module.", "model.", "bert.", "roberta.", "module.bert.", "model.bert.", "module.model.bert."],
    "GPT2Model": [
        "",
        "module.",
        "model.",
        "transformer.",
        "module.model.",
        "model.transformer.",
        "module.transformer.",
    ],
}


@pytest.mark.parametrize(("name", "prefix"), [(name, prefix) for name in PREFIXES for prefix in PREFIXES[name]])
def test_prefixes_do_not_matter(tmp_path: Path, name: str, prefix: str) -> None:
    # This prefix says that positions count from 2, which a configuration must not contradict.
    model = saved(tmp_path, name, **({"position_offset": 2} if "roberta" in prefix else {}))
    state = {
        prefix + key.removeprefix(model.prefixes.get("flagai", "")): value for key, value in tensors(tmp_path).items()
    }
    save_file(state, tmp_path / "model.safetensors")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize(("prefix", "offset"), [("roberta.", 0), ("bert.", 2)])
def test_the_advice_about_positions_is_right(tmp_path: Path, prefix: str, offset: int) -> None:
    model = saved(tmp_path, "BertModel", position_offset=offset)
    own = model.prefixes.get("flagai", "")
    state = {prefix + key.removeprefix(own): value for key, value in tensors(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ConfigError, match=f"position_offset is {offset}, but the weights are called {prefix}"
    ) as caught:
        type(model).from_pretrain(tmp_path)
    advice = dict(re.findall(r"(position_offset|pad_token_id)=(\d+)", str(caught.value)))
    settings = {name: int(value) for name, value in advice.items()}
    assert type(model).from_pretrain(tmp_path, **settings).config.position_offset == 2 - offset


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_old_spellings_of_layer_norms_are_read(tmp_path: Path, layout: str) -> None:
    model = saved(tmp_path, "BertForMaskLM", layout=layout)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors(tmp_path).items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, tmp_path / "model.safetensors")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
@pytest.mark.parametrize("name", ["GLMModel", "BertForMaskLM", "GPT2Model", "T5Model"])
def test_the_order_of_names_does_not_matter(tmp_path: Path, name: str, layout: str) -> None:
    model = saved(tmp_path, name, layout=layout)
    items = list(tensors(tmp_path).items())
    random.Random(0).shuffle(items)
    (tmp_path / "model.safetensors").unlink()
    torch.save(dict(items), tmp_path / "pytorch_model.bin")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize("inner", [20, 48, 12])
@pytest.mark.parametrize("linear", [False, True])
def test_gpt2_matrices_are_read_both_ways_round(tmp_path: Path, linear: bool, inner: int) -> None:
    model = saved(tmp_path, "GPT2Model", n_inner=inner)
    turned = {
        name: tensor.T.contiguous() if linear and ".h." in name and tensor.dim() == 2 else tensor
        for name, tensor in tensors(tmp_path).items()
    }
    save_file(turned, tmp_path / "model.safetensors")
    assert equal(GPT2Model.from_pretrain(tmp_path), model)


# Buffers that transformers saved in one of its versions.
BUFFERS: dict[str, dict[str, torch.Tensor]] = {
    "BertModel": {
        "embeddings.position_ids": torch.arange(40)[None],
        "bert.embeddings.token_type_ids": torch.zeros(1, dtype=torch.long).expand(1, 40),
    },
    "GPT2Model": {
        "h.0.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.uint8),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    },
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_of_older_versions_are_left_out(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path, name)
    torch.save(tensors(tmp_path) | BUFFERS[name], tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert equal(type(model).from_pretrain(tmp_path), model)
