"""What a model writes, the same class reads again, bit by bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import InputError
from tests import tiny


def settings(model: Any) -> dict[str, Any]:
    """The configuration without what a file says beyond it, and the name that its layout has for the architecture."""
    return {key: value for key, value in model.config.to_dict().items() if key not in ("architectures", "model_type")}


def assert_identical(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found.state_dict(), wanted.state_dict(), atol=0, rtol=0)


def assert_same_outputs(found: Any, wanted: Any, name: str, changes: dict[str, Any]) -> None:
    arguments = tiny.batch(name, **changes)
    with torch.no_grad():
        first, second = found(**arguments), wanted(**arguments)
    for key in ("logits", "loss"):
        torch.testing.assert_close(first.get(key), second.get(key), atol=0, rtol=0) if key in second else None


@pytest.mark.parametrize(("layout", "max_shard_size"), [("flagai", "5GB"), ("huggingface", "1.5KB")])
@pytest.mark.parametrize(("name", "changes"), tiny.EVERY, ids=tiny.label)
def test_folder(name: str, changes: dict[str, Any], layout: str, max_shard_size: str, tmp_path: Path) -> None:
    model = tiny.build(name, **changes)
    model.save_pretrained(tmp_path, layout=layout, max_shard_size=max_shard_size)
    shards = len(list(tmp_path.glob("*.safetensors")))
    assert (shards == 1) == (max_shard_size == "5GB")
    again = tiny.CLASSES[name].from_pretrained(tmp_path)
    assert settings(again) == settings(model)
    assert not again.training
    assert_identical(again, model)
    assert_same_outputs(again, model, name, changes)


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
@pytest.mark.parametrize("file", ["weights.bin", "weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("name", tiny.CLASSES)
def test_file(name: str, file: str, layout: str, tmp_path: Path) -> None:
    """Weights and configuration on their own: what is loaded in place replaces every value."""
    model, other = tiny.build(name), tiny.build(name, seed=1)
    model.save_weights(tmp_path / file, layout=layout)
    model.save_config(tmp_path)
    assert torch.load(tmp_path / file, weights_only=True) if file != "weights.safetensors" else True
    pointers = [parameter.data_ptr() for parameter in other.parameters()]
    report = other.load_weights(tmp_path / file)
    assert not [*report.newly_initialized, *report.unused, *report.untied]
    assert [parameter.data_ptr() for parameter in other.parameters()] == pointers
    assert_identical(other, model)
    drawn = tiny.CLASSES[name].init_from_json(tmp_path / "config.json")
    assert settings(drawn) == settings(model)
    assert {key: value.shape for key, value in drawn.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["GLMModel", "GPT2Model", "T5Model", "BertForMaskLM"])
def test_half_types_survive(name: str, dtype: torch.dtype, layout: str, tmp_path: Path) -> None:
    model = tiny.build(name).to(dtype)
    model.save_pretrained(tmp_path, layout=layout)
    assert_identical(tiny.CLASSES[name].from_pretrained(tmp_path), model)


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ("BertModel", "BertForClsClassifier"),
        ("BertForMaskLM", "BertForSequenceLabelingCRF"),
        ("GLMModel", "GLMForSequenceClassification"),
    ],
)
def test_a_backbone_gets_a_new_head(saved: str, name: str, tmp_path: Path) -> None:
    """The backbone is the saved one, the head is drawn, finite and not zero."""
    wanted = tiny.build(saved).state_dict()
    tiny.build(saved).save_pretrained(tmp_path)
    model = tiny.CLASSES[name].from_pretrained(tmp_path)
    state = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    shared = {key.removeprefix("model.") for key in wanted} & state.keys()
    assert len(shared) > 20
    for key in shared:
        assert torch.equal(state[key], wanted.get(key, wanted.get(f"model.{key}")))
    for key in state.keys() - shared:
        assert state[key].isfinite().all()
        assert key.endswith("bias") or state[key].std() > 0


@pytest.mark.parametrize("name", ["T5Model", "BertForMaskLM"])
def test_values_of_their_own_untie_a_head(name: str, tmp_path: Path) -> None:
    """Into a new model as into one that stands, where the head must not write into the embeddings."""
    source, standing = tiny.build(name, seed=1, tie_word_embeddings=False), tiny.build(name)
    source.save_pretrained(tmp_path)
    standing.load_weights(tmp_path)
    for model in (standing, tiny.CLASSES[name].from_pretrained(tmp_path, tie_word_embeddings=True)):
        assert_identical(model, source)
        assert_same_outputs(model, source, name, {})
        assert model.config.tie_word_embeddings is False


def test_a_classifier_saves_a_whole_language_model(tmp_path: Path) -> None:
    model = tiny.build("GLMForSequenceClassification")
    model.save_pretrained(tmp_path)
    tokens = tiny.ids(37, 1, 4)
    assert tiny.CLASSES["GLMModel"].from_pretrained(tmp_path)(tokens)["logits"].shape == (1, 4, 37)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    for layout in ("flagai", "huggingface"):
        tiny.build("T5Model").save_pretrained(tmp_path, layout=layout)
        model = tiny.CLASSES["T5Model"].from_pretrained(tmp_path)
        assert model.head.weight is model.embed.token.weight


def test_saving_again_replaces_the_shards_and_keeps_other_files(tmp_path: Path) -> None:
    model = tiny.build("GPT2Model")
    (tmp_path / "vocab.txt").write_text("words")
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert_identical(tiny.CLASSES["GPT2Model"].from_pretrained(tmp_path), model)


def test_a_loaded_model_can_be_saved_over_its_own_files(tmp_path: Path) -> None:
    """Its parameters are views of the very file that is replaced."""
    model = tiny.build("GPT2Model")
    model.save_pretrained(tmp_path)
    loaded = tiny.CLASSES["GPT2Model"].from_pretrained(tmp_path)
    tiny.randomised(loaded)
    loaded.save_pretrained(tmp_path)
    loaded.save_weights(tmp_path / "model.safetensors")
    assert_identical(tiny.CLASSES["GPT2Model"].from_pretrained(tmp_path), loaded)


@pytest.mark.parametrize("arguments", [{"layout": "onnx"}, {"max_shard_size": "big"}], ids=str)
def test_impossible_requests(arguments: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(arguments.values()))):
        tiny.build("GPT2Model").save_pretrained(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_weights_need_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_pretrained"):
        tiny.build("GPT2Model").save_weights(tmp_path)
