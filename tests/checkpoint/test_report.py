"""What a load says: everything that does not fit in one error, everything that was decided in the log."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.report import LoadReport
from flagai.errors import LoadError
from flagai.model.bert_model import BertForClsClassifier, BertForMaskLM, BertModel
from flagai.model.glm_model import GLMForSeq2Seq, GLMForSequenceClassification, GLMModel
from flagai.model.t5_model import T5Model
from tests import tiny
from tests.checkpoint.making import equal, saved, tensors

UP = "transformer.layers.{}.mlp.dense_h_to_4h.weight"


def broken(folder: Path) -> None:
    """Save a GLM, then take two tensors out, put two unknown ones in, and cut one."""
    saved(folder)
    weights = tensors(folder)
    for layer in range(2):
        weights[f"transformer.layers.{layer}.mlp.gate.weight"] = weights.pop(UP.format(layer))
    weights["transformer.position_embeddings.weight"] = torch.zeros(5, 12)
    save_file(weights, folder / "model.safetensors")


def test_one_error_says_everything(tmp_path: Path) -> None:
    broken(tmp_path)
    with pytest.raises(LoadError) as caught:
        GLMModel.from_pretrain(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path} does not fit GLMModel; nothing was loaded."
    assert lines[1] == "2 tensors missing from the checkpoint:"
    assert "blocks.{0-1}.feed_forward.up.weight" in lines[2]
    assert lines[3] == "2 tensors unknown to this model:"
    assert "transformer.layers.{0-1}.mlp.gate.weight" in lines[4]
    assert lines[5] == "1 tensor of the wrong shape:"
    assert all(word in lines[6] for word in ("embed.position.weight", "(33, 12)", "(5, 12)"))
    assert "config.json" in lines[7]
    assert len(lines) == 8


def test_a_live_model_is_unchanged_after_an_error(tmp_path: Path) -> None:
    broken(tmp_path)
    model, same = tiny.build("GLMModel", 1, spell_length=None), tiny.build("GLMModel", 1, spell_length=None)
    config, pointers = model.config, [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(LoadError):
        model.load_weights(tmp_path)
    assert equal(model, same)
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]
    assert model.config is config


def test_a_live_model_is_overwritten_in_place(tmp_path: Path) -> None:
    stored = saved(tmp_path, seed=1)
    model = tiny.build("GLMModel", 2, spell_length=None)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    report = model.load_weights(tmp_path)
    assert equal(model, stored)
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]
    assert [report.newly_initialized, report.unused, report.untied, report.conflicting] == [[]] * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_layers": 3}, "blocks.2.attention.q.weight"),
        ({"num_layers": 1}, "transformer.layers.1.attention.query_key_value.weight"),
        ({"vocab_size": 38}, "embed.token.weight (38, 12)"),
        ({"hidden_size": 24}, "blocks.{0-1}.norm1.weight (24,)"),
        ({"block_position_encoding": False}, "embed.position.weight (32, 12)"),
    ],
)
def test_a_configuration_of_another_size_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(LoadError) as caught:
        GLMModel.from_pretrain(tmp_path)
    assert words in str(caught.value)


def test_a_long_report_is_cut(tmp_path: Path) -> None:
    saved(tmp_path)
    save_file(
        tensors(tmp_path) | {f"odd{letter}": torch.ones(1) for letter in "abcdefghijklmnopqrst"},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(LoadError, match="20 tensors unknown") as caught:
        GLMModel.from_pretrain(tmp_path)
    assert "oddl" in str(caught.value)
    assert "oddm" not in str(caught.value)
    assert "... and 8 lines more" in str(caught.value)


def test_a_fresh_head_is_drawn_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = saved(tmp_path)
    with caplog.at_level(logging.INFO, "flagai"):
        model = GLMForSequenceClassification.from_pretrain(tmp_path, class_num=3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert all(
        word in record.getMessage()
        for word in (str(tmp_path), "randomly initialized", "pool.dense.weight", "classifier.bias")
    )
    assert equal(model.model, backbone)
    for head in (model.pool, model.classifier):
        values = torch.cat([parameter.flatten() for parameter in head.parameters()])
        assert not values.is_meta
        assert values.isfinite().all()
        assert values.std() > 0


def test_tensors_of_another_head_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = saved(tmp_path, "GLMForSequenceClassification", spell_length=None)
    with caplog.at_level(logging.INFO, "flagai"):
        model = GLMForSeq2Seq.from_pretrain(tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert all(word in record.getMessage() for word in ("not used", "pool_layer.weight", "multichoice_head.bias"))
    assert equal(model.model, stored.model)


def test_a_tensor_of_no_head_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, "BertForClsClassifier")
    save_file(tensors(tmp_path) | {"classifier2.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match=r"1 tensor unknown to this model:\s+classifier2.weight"):
        BertForClsClassifier.from_pretrain(tmp_path)


@pytest.mark.parametrize("name", ["BertForMaskLM", "T5Model"])
@pytest.mark.parametrize("same", [True, False])
def test_tied_weights_that_differ_are_untied(tmp_path: Path, name: str, same: bool) -> None:
    stored = saved(tmp_path, name)
    weights = tensors(tmp_path)
    embedding = "shared.weight" if name == "T5Model" else "model.embeddings.word_embeddings.weight"
    head = "lm_head.weight" if name == "T5Model" else "cls.predictions.decoder.weight"
    weights[head] = weights[embedding] + (0 if same else 1)
    save_file(weights, tmp_path / "model.safetensors")
    model = type(stored).from_pretrain(tmp_path)
    assert model.config.tie_word_embeddings is same
    assert len(list(model.parameters())) == len(list(stored.parameters())) + (not same)
    again = tmp_path / "again"
    model.save_pretrained(again)
    assert equal(type(model).from_pretrain(again), model)
    assert json.loads((again / "config.json").read_text())["tie_word_embeddings"] is same


def test_a_missing_tied_copy_is_no_error(tmp_path: Path) -> None:
    stored = saved(tmp_path, "BertForMaskLM")
    weights = tensors(tmp_path)
    del weights["cls.predictions.decoder.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    model = BertForMaskLM.from_pretrain(tmp_path)
    assert equal(model, stored)
    assert model.head.decoder.weight is model.model.embed.token.weight


@pytest.mark.parametrize("difference", [0, 1])
def test_copies_that_differ_are_warned_of(tmp_path: Path, difference: int, caplog: pytest.LogCaptureFixture) -> None:
    stored = saved(tmp_path, "T5Model")
    weights = tensors(tmp_path)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"] + difference
    save_file(weights, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING, "flagai"):
        model = T5Model.from_pretrain(tmp_path)
    assert equal(model, stored)
    assert [("encoder.embed_tokens.weight" in record.getMessage()) for record in caplog.records] == [True] * difference


def test_buffers_of_other_libraries_are_no_error(tmp_path: Path) -> None:
    stored = saved(tmp_path, "BertModel")
    save_file(tensors(tmp_path) | {"embeddings.position_ids": torch.arange(40)[None]}, tmp_path / "model.safetensors")
    assert equal(BertModel.from_pretrain(tmp_path), stored)


@pytest.mark.parametrize(
    ("missing", "pattern"),
    [(["out.weight (x)", "out.bias (x)"], "fresh = ('out.*',)"), (["a.w (x)", "b (x)"], "fresh = ('a.*', 'b.*')"),
     (["blocks.3.norm1.weight (x)"], None), (["a.w", "b.w", "c.w", "d.w"], None)],
)  # fmt: skip
def test_a_head_of_ones_own_is_told_how_to_be_new(missing: list[str], pattern: str | None) -> None:
    report = LoadReport("file", "Own", missing=missing)
    with pytest.raises(LoadError) as caught:
        report.raise_if_broken()
    assert (pattern in str(caught.value)) if pattern else ("fresh" not in str(caught.value))
