"""Odd and wrong calls: a clear error, or the result that a user means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flagai.errors import ConfigError, InputError, LoadError
from flagai.model.bert_model import BertForClsClassifier, BertForMaskLM, BertModel
from flagai.model.layer import CRF, KVCache
from flagai.model.layer.activations import activation
from flagai.model.t5_model import T5Model
from tests.tiny import batch, build, ids

TOKENS = ids(31, 2, 6)


@pytest.mark.parametrize("name", ["BertModel", "GLMModel", "GPT2Model", "T5Model"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (None, "missing"),
        ([[1, 2]], "list"),
        (torch.ones(3, dtype=torch.long), "shape"),
        (torch.ones(2, 0, dtype=torch.long), "shape"),
        (torch.ones(2, 3), "integers"),
        (torch.ones(2, 3, dtype=torch.bool), "integers"),
        (torch.full((2, 3), 10_000), "10000 lies outside"),
        (torch.full((2, 3), -1), "-1 lies outside"),
    ],
)
def test_wrong_ids_are_named(name: str, tokens: Any, message: str) -> None:
    arguments = {"decoder_input_ids": tokens, "input_ids": TOKENS} if name == "T5Model" else {"input_ids": tokens}
    with pytest.raises(InputError, match=message):
        build(name)(**arguments)


def test_too_long_a_text_is_named() -> None:
    with pytest.raises(InputError, match=r"position 40 lies outside 0\.\.39"):
        build("BertModel")(ids(31, 1, 41))


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model"])
@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (3, 6), (6,), (2, 6, 7), (2, 1, 5, 6)])
def test_masks_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="attention_mask"):
        build(name)(input_ids=TOKENS, attention_mask=torch.ones(shape))


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model"])
def test_additive_masks_are_refused(name: str) -> None:
    additive = (1 - torch.ones(2, 1, 1, 6).tril()) * -10000.0
    with pytest.raises(InputError, match="-10000"):
        build(name)(input_ids=TOKENS, attention_mask=additive)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.uint8])
def test_masks_of_any_type_mean_the_same(dtype: torch.dtype) -> None:
    model, mask = build("BertModel"), torch.ones(2, 6)
    mask[0, 4:] = 0
    expected = model(TOKENS, attention_mask=mask)["hidden_states"]
    assert torch.equal(model(TOKENS, attention_mask=mask.to(dtype))["hidden_states"], expected)


@pytest.mark.parametrize("mask", [torch.ones(2, 6), torch.ones(2, 5, 6), torch.ones(3), torch.full((2, 6, 6), -1e4)])
def test_wrong_masks_of_glm_are_refused(mask: torch.Tensor) -> None:
    with pytest.raises(InputError, match="attention_mask"):
        build("GLMModel")(TOKENS, attention_mask=mask)


def test_memories_must_be_memories() -> None:
    with pytest.raises(InputError, match="mems is of type list"):
        build("GLMModel")(TOKENS, mems=[torch.zeros(2, 3, 12)])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps:7", 99, None])
def test_absent_devices_are_named(device: Any, tmp_path: Path) -> None:
    build("BertModel").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="device="):
        BertModel.from_pretrained(tmp_path, device=device)


@pytest.mark.parametrize("dtype", ["half", torch.int64, 16, torch.complex64])
def test_impossible_types_are_named(dtype: Any, tmp_path: Path) -> None:
    build("BertModel").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="dtype="):
        BertModel.from_pretrained(tmp_path, dtype=dtype)


def test_types_may_be_named_by_strings(tmp_path: Path) -> None:
    build("BertModel").save_pretrained(tmp_path)
    assert next(BertModel.from_pretrained(str(tmp_path) + "/", dtype="bfloat16").parameters()).dtype is torch.bfloat16


@pytest.mark.parametrize(("wrong", "right"), [("torch_dtype", "dtype"), ("devise", "device")])
def test_misspelt_arguments_of_loading_are_understood(wrong: str, right: str, tmp_path: Path) -> None:
    build("BertModel").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"Did you mean '{right}'"):
        BertModel.from_pretrained(tmp_path, **{wrong: "cpu"})


def test_two_classes_are_what_transformers_does_not_write(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k != "id2label"}))
    ours = BertForClsClassifier.from_pretrained(tmp_path)
    torch.testing.assert_close(ours(TOKENS)["logits"], theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_real_roberta_predicts_as_transformers(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        vocab_size=31,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=20,
        type_vocab_size=1,
    )
    theirs = transformers.RobertaForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, tokens = BertForMaskLM.from_pretrained(tmp_path), TOKENS.clone()
    tokens[0, 4:] = 1  # RoBERTa's padding
    mask = (tokens != 1).long()
    expected = theirs(tokens, attention_mask=mask).logits
    torch.testing.assert_close(ours(tokens)["logits"][mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="RoBERTa"):
        ours.save_pretrained(tmp_path / "again", layout="huggingface")


def test_t5_in_float16_comes_back_as_float16(tmp_path: Path) -> None:
    build("T5Model", d_ff=512).save_pretrained(tmp_path)
    half = T5Model.from_pretrained(tmp_path, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    again = T5Model.from_pretrained(tmp_path / "half")
    assert {name: p.dtype for name, p in again.named_parameters()} == {n: p.dtype for n, p in half.named_parameters()}


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build("BertModel").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.layer.0.output.dense.weight"] = tensors["encoder.layer.0.output.dense.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match=r"of the wrong type:\s+blocks\.0\.feed_forward\.down\.weight.*int8"):
        BertModel.from_pretrained(tmp_path)


def test_a_configuration_becomes_a_dictionary() -> None:
    config = build("BertModel").config
    assert dict(config)["hidden_size"] == 12
    assert "vocab_size" in list(config)


def test_unlabelled_tokens_do_not_count_in_a_crf() -> None:
    model, arguments = build("BertForSequenceLabelingCRF"), batch("BertForSequenceLabelingCRF")
    arguments["labels"][0, 5:] = -100
    shorter = {"input_ids": arguments["input_ids"][:1, :5], "token_type_ids": arguments["token_type_ids"][:1, :5]}
    expected = model.crf(model(**shorter)["logits"], arguments["labels"][:1, :5], torch.ones(1, 5, dtype=torch.bool))
    first = {name: tensor[:1] for name, tensor in arguments.items()}
    logits = model(**shorter)["logits"]
    padded = torch.cat([logits, torch.zeros(1, 2, 4)], dim=1)
    torch.testing.assert_close(model.loss(padded, first["labels"], torch.ones(1, 7, dtype=torch.bool)), expected[0])


def test_a_crf_refuses_padding_on_the_left() -> None:
    valid = torch.tensor([[False, True, True]])
    with pytest.raises(InputError, match="one piece"):
        CRF(4)(torch.randn(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), valid)


def test_cropping_a_cache_forgets_and_never_grows() -> None:
    cache = KVCache(num_layers=1)
    with torch.inference_mode():
        cache.append(0, torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4, 2))
        cache.advance(4)
        cache.crop(9)
        assert cache.length == 4
        cache.crop(2)
        keys, _ = cache.append(0, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    assert keys[0, 0, :, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"]
)
def test_activations_equal_transformers(name: str) -> None:
    values = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(
        activation(name)(values), transformers.activations.ACT2FN[name](values), atol=1e-6, rtol=0
    )
