"""Adapters beside a model: prefixes of P-Tuning v2, and LoRA of PEFT under the original's names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagai.errors import CheckpointError, FlagAIError
from flagai.generation import Decoding, Prompt, generate
from tests import tiny
from tests.chatglm.cases import ROOT, case, error, folder, model, open_folder


@pytest.mark.parametrize("name", ["chatglm6b-ptuning-projected", "chatglm2-6b-ptuning"])
def test_a_prefix_is_loaded_beside_its_model(name: str, tmp_path: Path) -> None:
    target = folder(name, tmp_path / name)
    tensors = load_file(target / "model.safetensors")
    prefix = {key: tensors.pop(key) for key in [key for key in tensors if "prefix_encoder" in key]}
    save_file(tensors, target / "model.safetensors")
    save_file(prefix, tmp_path / "prefix.safetensors")
    network = open_folder(target)  # config.json says pre_seq_len, as beside published prefixes
    assert network.prefix is None
    network.load_prefix_encoder(tmp_path / "prefix.safetensors")
    wanted = case(name)
    ids, first = wanted["batch.input_ids"], name.startswith("chatglm6b")
    mask = None if first else wanted["batch.attention_mask"]
    real = ids != 3 if first else mask
    assert error(network(ids, attention_mask=mask)["logits"], wanted["batch.logits"], real) < 1e-4
    with pytest.raises(CheckpointError, match="holds a prefix of"):
        tiny.build("ChatGLMModel").load_prefix_encoder(tmp_path / "prefix.safetensors")
    with pytest.raises(CheckpointError, match="holds no prefix"):
        network.load_prefix_encoder(target / "model.safetensors")


def test_weights_with_a_prefix_need_it_in_the_configuration(tmp_path: Path) -> None:
    target = folder("chatglm2-6b-ptuning", tmp_path / "model")
    content = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({key: content[key] for key in content if key != "pre_seq_len"}))
    with pytest.raises(FlagAIError, match="pre_seq_len"):
        open_folder(target)
    assert open_folder(target, pre_seq_len=5).prefix_length == 5


def test_a_prefix_serves_all_searches_of_the_engine() -> None:
    """Each text of a batch has the answer that it has alone, whatever the search."""
    network = model("chatglm2-6b-ptuning")
    prompts = [Prompt((4, 9, 33)), Prompt((77, 5)), Prompt(tuple(range(20, 34)))]
    options: list[dict[str, Any]] = [
        {},
        {"num_beams": 3},
        {"penalty_alpha": 0.5, "top_k": 3},
        {"prompt_lookup_num_tokens": 3},
    ]
    for more in options:
        how = Decoding(max_new_tokens=9, stop_token_ids=(2,), **more)
        together = [answers[0].ids for answers in generate(network, prompts, how)]
        assert together == [generate(network, [prompt], how)[0][0].ids for prompt in prompts]
    with torch.inference_mode():
        ids = torch.tensor([prompts[0].ids])
        for token in generate(network, prompts[:1], Decoding(max_new_tokens=9, stop_token_ids=(2,)))[0][0].ids:
            assert int(network(ids)["logits"][0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def adapter(path: Path, layers: dict[str, tuple[int, int]], **settings: Any) -> dict[str, torch.Tensor]:
    """Write a folder of PEFT, and return what it adds to each layer."""
    torch.manual_seed(3)
    path.mkdir()
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "target_modules": ["query_key_value"]}
    (path / "adapter_config.json").write_text(json.dumps(content | settings))
    pairs = {name: (torch.randn(2, inputs), torch.randn(outputs, 2)) for name, (outputs, inputs) in layers.items()}
    tensors = {f"base_model.model.{name}.lora_A.weight": pair[0] for name, pair in pairs.items()}
    tensors |= {f"base_model.model.{name}.lora_B.weight": pair[1] for name, pair in pairs.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    return {f"{name}.weight": 3 * pair[1] @ pair[0] for name, pair in pairs.items()}


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("chatglm6b", "transformer.layers.{}.attention.query_key_value", (96, 32)),
        ("chatglm3-6b", "transformer.encoder.layers.{}.self_attention.query_key_value", (128, 64)),
        ("chatglm3-6b", "transformer.encoder.layers.{}.mlp.dense_h_to_4h", (192, 64)),
        ("native-glm", "model.layers.{}.self_attn.k_proj", (32, 64)),
    ],
)
def test_lora_is_added_to_fused_matrices(name: str, layer: str, shape: tuple[int, int], tmp_path: Path) -> None:
    added = adapter(tmp_path / "adapter", {layer.format(number): shape for number in range(3)})
    source = folder(name, tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    save_file({key: value + added.get(key, 0) for key, value in tensors.items()}, source / "model.safetensors")
    wanted, found = open_folder(source), open_folder(ROOT / name)
    found.load_adapter(tmp_path / "adapter")
    found.merge_adapter()
    torch.testing.assert_close(found.state_dict(), wanted.state_dict())


def test_adapters_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    name = "transformer.encoder.layers.{}.self_attention.query_key_value"
    network = open_folder(ROOT / "chatglm3-6b")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    adapter(tmp_path / "deep", {name.format(number): (128, 64) for number in (0, 7)})
    adapter(tmp_path / "wide", {name.format(0): (128, 64), name.format(1): (96, 64)})
    adapter(tmp_path / "dora", {name.format(0): (128, 64)}, use_dora=True)
    adapter(tmp_path / "prefix", {name.format(0): (128, 64)}, peft_type="PREFIX_TUNING")
    for folder_name, words in (
        ("deep", "layers.7"),
        ("wide", "another size"),
        ("dora", "use_dora"),
        ("prefix", "LORA"),
    ):
        with pytest.raises(CheckpointError, match=words):
            network.load_adapter(tmp_path / folder_name)
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
