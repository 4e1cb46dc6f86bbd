"""Published int8 and int4 weights are opened as our own int8 ones, without a change of a value."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagai.checkpoint.published_quantization import as_int8
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError, ConfigError
from flagai.model.layer.quantized_linear import QuantizedLinear
from tests.chatglm.cases import ROOT, case, error, folder, open_folder

NAME = "chatglm6b-int4"


def test_the_c_kernel_s_values() -> None:
    found = as_int8(open_checkpoint(ROOT / NAME, dequantize=False), 4)
    name = "transformer.layers.0.attention.query_key_value.weight"
    values = found.parts[0][name].float() * found.parts[0][f"{name}_scale"][:, None]
    assert error(values, case(NAME)["unpacked.query_key_value.0"]) < 1e-7


@torch.inference_mode()
def test_int8_computes_what_int4_does_and_survives_saving(tmp_path: Path) -> None:
    four = folder(NAME, tmp_path / "four")
    eight = folder(NAME, tmp_path / "eight")
    opened = as_int8(open_checkpoint(four, dequantize=False), 4).parts[0]
    halved = {key: value.half() if key.endswith("weight_scale") else value for key, value in opened.items()}
    save_file({key: value.clone() for key, value in halved.items()}, eight / "model.safetensors")
    content = json.loads((eight / "config.json").read_text())
    (eight / "config.json").write_text(json.dumps(content | {"quantization_bit": 8}))
    models = [open_folder(path, dtype="float32") for path in (four, eight)]
    models[0].save_pretrained(tmp_path / "saved")
    models.append(open_folder(tmp_path / "saved", dtype="float32"))
    assert all(type(network.blocks[0].attention.q) is QuantizedLinear for network in models)
    ids = case(NAME)["batch.input_ids"]
    first, second, third = (network(ids)["logits"] for network in models)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    target = folder(NAME, tmp_path)
    tensors, content = load_file(target / "model.safetensors"), json.loads((target / "config.json").read_text())
    scale = "transformer.layers.3.mlp.dense_4h_to_h.weight_scale"
    save_file(tensors | {scale: tensors[scale][1:].clone()}, target / "model.safetensors")
    with pytest.raises(CheckpointError, match="one scale a row"):
        open_folder(target)
    plain = {key: value.float() for key, value in tensors.items() if not key.endswith("weight_scale")}
    save_file(plain, target / "model.safetensors")
    with pytest.raises(CheckpointError, match="no tensor has a scale"):
        open_folder(target)
    save_file(tensors, target / "model.safetensors")
    for change, words in (
        ({"quantization_bit": 2}, "known: 0, 4 and 8"),
        ({"quantization_embeddings": True}, "not supp"),
    ):
        (target / "config.json").write_text(json.dumps(content | change))
        with pytest.raises((ConfigError, CheckpointError), match=words):
            open_folder(target)
