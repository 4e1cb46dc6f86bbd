"""Folders that do not fit, are damaged or mean harm: an error names the thing, and the model stays as it was."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import flagai
from flagai.errors import CheckpointError, FlagAIError, InputError, ModelNotFoundError
from flagai.model.bert_model import BertForClsClassifier
from tests import tiny
from tests.adapters.made import with_adapters

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAYER = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "law"
    with_adapters(tiny.build("BertForClsClassifier"), "law").save_adapter(folder, "law")
    return folder


def copied(whole: Path, into: Path, change: Callable[[dict[str, Any]], Any] | None = None, **settings: Any) -> Path:
    """A copy of the folder with other settings, and tensors that a function has changed."""
    into.mkdir()
    tensors = load_file(whole / WEIGHTS)
    if change is not None:
        change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, into / WEIGHTS)
    (into / CONFIG).write_text(json.dumps(json.loads((whole / CONFIG).read_text()) | settings))
    return into


SETTINGS = {
    "use_dora": True,
    "lora_bias": True,
    "layer_replication": [[0, 1]],
    "bias": "lora_only",
    "trainable_token_indices": [1],
    "target_parameters": ["x"],
    "use_qalora": True,
    "velora_config": {"r": 1},
    "init_lora_weights": "pissa",
    "peft_type": "IA3",
    "rank_pattern": {"query.*": 4},
    "alpha_pattern": {".*": 4},
    "r": 7,
    "lora_alpha": "x",
    "something_new": 1,
    "use_rslora": "maybe",
}
TENSORS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "narrow": (lambda all_: all_.update({LAYER: all_[LAYER][:, :5].contiguous()}), "another size"),
    "other rank": (lambda all_: all_.update({LAYER: all_[LAYER][:1].contiguous()}), "another size"),
    "half": (lambda all_: all_.pop(LAYER), "the other matrix"),
    "deep": (lambda all_: all_.update({LAYER.replace("0", "9"): all_[LAYER]}), "layer.9.attention"),
    "twice": (lambda all_: all_.update({LAYER.replace("bert.", ""): all_[LAYER].clone()}), "the same tensor"),
    "embedding": (
        lambda all_: all_.update({LAYER.replace("lora_A", "lora_embedding_A"): all_[LAYER]}),
        "not an adapter",
    ),
    "magnitude": (
        lambda all_: all_.update({LAYER.replace("A.weight", "magnitude_vector"): all_[LAYER]}),
        "not an adapter",
    ),
    "integers": (lambda all_: all_.update({LAYER: all_[LAYER].int()}), "floating-point"),
    "no tensors": (lambda all_: all_.clear(), "holds no tensors"),
    "head": (lambda all_: all_.update({"base_model.model.classifier.weight": torch.ones(9, 12)}), "other classes"),
    "half a head": (lambda all_: all_.update({"base_model.model.classifier.weight": torch.ones(4, 12)}), "only one of"),
    "norm": (lambda all_: all_.update({"base_model.model.bert.embeddings.LayerNorm.weight": torch.ones(12)}), "Norm"),
    "tokens": (
        lambda all_: all_.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.ones(31, 12)}),
        "word_embeddings",
    ),
}


def refuse(folder: Path, words: str, kind: type[FlagAIError] = CheckpointError) -> None:
    model = tiny.build("BertForClsClassifier")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(kind, match=words):
        model.load_adapter(folder)
    assert model.adapter_names == []
    assert type(model.model.blocks[0].attention.q).__name__ == "Linear"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_not_honoured_is_named(name: str, whole: Path, tmp_path: Path) -> None:
    refuse(copied(whole, tmp_path / "law", **{name: SETTINGS[name]}), rf"adapter_config.json, {name}:|, {name}, ")


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_named(name: str, whole: Path, tmp_path: Path) -> None:
    change, words = TENSORS[name]
    refuse(copied(whole, tmp_path / "law", change), words)


def test_what_is_absent_or_broken_is_named(whole: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "nothing has no adapter_config", ModelNotFoundError)
    empty = copied(whole, tmp_path / "empty")
    (empty / WEIGHTS).unlink()
    refuse(empty, "has none of adapter_model", ModelNotFoundError)
    broken = copied(whole, tmp_path / "broken")
    (broken / CONFIG).write_text("{")
    refuse(broken, "is not valid JSON")
    cut = copied(whole, tmp_path / "cut")
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:-8])
    refuse(cut, "adapter_model")
    with pytest.raises(CheckpointError, match="no linear layer of a GPT2Model"):
        tiny.build("GPT2Model").load_adapter(whole)


def test_a_folder_of_an_adapter_is_no_model(whole: Path) -> None:
    for load in (BertForClsClassifier.from_pretrained, lambda path: flagai.load("classification", str(path))):
        with pytest.raises(ModelNotFoundError, match="holds a LoRA adapter, not a model"):
            load(whole)


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_read_without_executing_it(whole: Path, tmp_path: Path) -> None:
    old = copied(whole, tmp_path / "old")
    (old / WEIGHTS).unlink()
    torch.save(load_file(whole / WEIGHTS), old / "adapter_model.bin")
    models = [tiny.build("BertForClsClassifier") for _ in range(2)]
    for model, folder in zip(models, (old, whole), strict=True):
        model.set_adapter(model.load_adapter(folder))
    ids = tiny.ids(30, 2, 6)
    assert torch.equal(models[0](ids)["logits"], models[1](ids)["logits"])
    assert not torch.equal(models[0](ids)["logits"], tiny.build("BertForClsClassifier")(ids)["logits"])
    (old / "adapter_model.bin").write_bytes(pickle.dumps({LAYER: _Harm(tmp_path / "harm")}))
    refuse(old, "adapter_model.bin")
    assert not (tmp_path / "harm").exists()


def test_names_and_orders_of_calls_that_cannot_be(whole: Path, tmp_path: Path) -> None:
    model = tiny.build("BertForClsClassifier")
    for name, words in (("base", "without an adapter"), ("", "expected a text"), (5, "expected a text")):
        with pytest.raises(InputError, match=words):
            model.load_adapter(whole, name)
    with pytest.raises(InputError, match="No adapter is merged"):
        model.unmerge_adapter()
    with pytest.raises(InputError, match="none is loaded"):
        model.merge_adapter()
    model.load_adapter(whole, "a.b c")  # any name
    with pytest.raises(InputError, match="loaded already"):
        model.load_adapter(whole, "a.b c")
    model.merge_adapter("a.b c")
    for call in (lambda: model.load_adapter(whole), lambda: model.delete_adapter("a.b c"), model.merge_adapter):
        with pytest.raises(InputError, match="is merged into the weights"):
            call()
    model.unmerge_adapter()
    with pytest.raises(InputError, match=r"Known: base, a\.b c"):
        model.set_adapter("law")
    model.delete_adapter("a.b c")
    assert type(model.model.blocks[0].attention.q).__name__ == "Linear"
    assert model.adapter_names == []
    with pytest.raises(InputError, match="adapter is empty"):
        model.load_adapters({})
    with pytest.raises(InputError, match="no linear layers called"):
        model.add_adapter("new", 2, targets=("query",))


def test_alpha_of_single_layers(whole: Path, tmp_path: Path) -> None:
    """Keys are names or ends of names, as PEFT writes them."""
    found = {}
    for name, alphas in (("one", {}), ("two", {"layer.0.attention.self.query": 8.0}), ("three", {"query": 8})):
        model = tiny.build("BertForClsClassifier")
        model.load_adapter(copied(whole, tmp_path / name, alpha_pattern=alphas))
        found[name] = [block.attention.q.adapters.changes[0].scale for block in model.model.blocks]
    assert found == {"one": [2, 2], "two": [4, 2], "three": [4, 4]}
