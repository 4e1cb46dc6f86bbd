"""Weights go from transformers to flagai and back, and the outputs stay equal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from flagai.model.bert_model import BertForClsClassifier, BertForMaskLM, BertForSequenceLabeling, BertModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model
from tests import tiny

BERT = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
DEEP_BERT = {**BERT, "num_hidden_layers": 12, "hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-6}
GPT2 = {"vocab_size": 37, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40, "n_inner": 20, "pad_token_id": 0}
DEEP_GPT2 = {**GPT2, "n_layer": 11, "n_head": 1, "n_inner": None, "activation_function": "relu"}
T5 = {key: value for key, value in tiny.CONFIGS["t5"].items() if key != "model_type"}
DEEP_T5 = {**T5, "num_layers": 11, "num_decoder_layers": 1, "relative_attention_num_buckets": 32, "num_heads": 3}
V1_1 = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@dataclass(frozen=True)
class Pair:
    """A class of transformers and ours.

    Args:
        theirs: the class in transformers.
        ours: our class.
        config: arguments of their configuration.
        labels: how many labels there are; None for backbones.
        untied: give the head weights of its own, as published T5 v1.1 and mT5 have. Transformers 5 ties them
            in memory whatever the configuration says, and yet lets the head read unscaled states.
    """

    theirs: Any
    ours: Any
    config: dict[str, Any]
    labels: int | None = None
    untied: bool = False

    def build(self) -> Any:
        """Their model, with weights that hide no mistake."""
        torch.manual_seed(0)
        model = tiny.randomised(self.theirs(self.theirs.config_class(**self.config)).eval(), std=0.2)
        if self.untied:
            model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
            model.config.tie_word_embeddings = False
        return model

    def read(self, folder: Path) -> Any:
        """Their model as read from a folder that has all they need and no more, but for a pooler of no use."""
        model, info = self.theirs.from_pretrained(folder, output_loading_info=True)
        wrong = [name for names in info.values() for name in names if "pooler" not in name]
        assert not wrong, info
        return model.eval()


PAIRS = {
    "bert": Pair(transformers.BertModel, BertModel, BERT),
    "bert-deep": Pair(transformers.BertModel, BertModel, DEEP_BERT),
    "bert-mask": Pair(transformers.BertForMaskedLM, BertForMaskLM, BERT, 31),
    "bert-mask-untied": Pair(transformers.BertForMaskedLM, BertForMaskLM, {**BERT, "tie_word_embeddings": False}, 31),
    "bert-classes": Pair(
        transformers.BertForSequenceClassification, BertForClsClassifier, {**BERT, "num_labels": 5}, 5
    ),
    "bert-tokens": Pair(transformers.BertForTokenClassification, BertForSequenceLabeling, {**BERT, "num_labels": 5}, 5),
    "gpt2": Pair(transformers.GPT2LMHeadModel, GPT2Model, GPT2, 37),
    "gpt2-deep": Pair(transformers.GPT2LMHeadModel, GPT2Model, DEEP_GPT2, 37),
    "t5": Pair(transformers.T5ForConditionalGeneration, T5Model, T5, 41),
    "t5-deep": Pair(transformers.T5ForConditionalGeneration, T5Model, DEEP_T5, 41),
    "t5-v1.1": Pair(transformers.T5ForConditionalGeneration, T5Model, V1_1, 41, untied=True),
    "t5-v1.1-tied": Pair(transformers.T5ForConditionalGeneration, T5Model, V1_1, 41),
    "mt5": Pair(transformers.MT5ForConditionalGeneration, T5Model, V1_1, 41, untied=True),
    "mt5-tied": Pair(transformers.MT5ForConditionalGeneration, T5Model, V1_1, 41),
}


def batch(pair: Pair, side: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Arguments for both models, and which positions of the outputs mean something."""
    place = torch.arange(9) if side == "right" else torch.arange(9).flip(0)
    real = place < torch.tensor([[9], [5], [7]])
    tokens = tiny.ids(pair.config["vocab_size"], 3, 9).masked_fill(~real, 0)
    arguments = {"input_ids": tokens, "attention_mask": real.long()}
    if pair.ours is T5Model:
        asked = torch.arange(6) < torch.tensor([[4], [6], [1]])
        return {**arguments, "labels": tiny.ids(41, 3, 6, seed=1).masked_fill(~asked, -100)}, asked | True
    if pair.ours is not GPT2Model:
        arguments["token_type_ids"] = (torch.arange(9) > 3).long().expand(3, 9)
    if pair.ours is BertForClsClassifier:
        arguments["labels"] = torch.tensor([4, 0, 2])
    elif pair.labels:
        labels = tokens if pair.ours is GPT2Model else tiny.ids(pair.labels, 3, 9, seed=1)
        # No label for a decoder's first real token either: padding would have to predict it.
        asked = real & (real.roll(1, dims=1) if pair.ours is GPT2Model else real)
        arguments["labels"] = labels.masked_fill(~asked, -100)
    return arguments, real


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def assert_same_outputs(pair: Pair, ours: Any, theirs: Any, side: str) -> None:
    """Logits, loss and every hidden state agree wherever they mean something."""
    arguments, real = batch(pair, side)
    got = ours(**arguments, output_hidden_states=True)
    want = theirs(**arguments, output_hidden_states=True)
    if pair.labels:
        where = slice(None) if pair.ours is BertForClsClassifier else real
        close(got["logits"][where], want.logits[where])
        close(got["loss"], want.loss)
    else:
        close(got["pooled"], want.pooler_output)
    states = got["all_hidden_states"]
    if pair.ours in (GPT2Model, T5Model):  # in transformers, the last one is what comes after the last norm
        states = [*states[:-1], got["hidden_states"]]
    wanted = want.decoder_hidden_states if pair.ours is T5Model else want.hidden_states
    for mine, other in zip(states, wanted, strict=True):
        close(mine[real], other[real])
    if pair.ours is T5Model:
        seen = arguments["attention_mask"].bool()
        close(got["encoder_last_hidden_state"][seen], want.encoder_last_hidden_state[seen])
        for mine, other in zip(got["encoder_all_hidden_states"][:-1], want.encoder_hidden_states[:-1], strict=True):
            close(mine[seen], other[seen])


@pytest.fixture(scope="module", params=PAIRS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    """A pair, and the folder into which transformers saved a model."""
    pair = PAIRS[request.param]
    folder = tmp_path_factory.mktemp("theirs")
    pair.build().save_pretrained(folder)
    return pair, folder


@pytest.mark.parametrize("side", ["left", "right"])
def test_reads_what_transformers_wrote(saved: tuple[Pair, Path], side: str) -> None:
    pair, folder = saved
    assert_same_outputs(pair, pair.ours.from_pretrained(folder), pair.read(folder), side)


@pytest.mark.parametrize("form", ["shards", "bin"])
def test_reads_the_other_forms_of_file(saved: tuple[Pair, Path], form: str, tmp_path: Path) -> None:
    pair, folder = saved
    if form == "shards":
        pair.read(folder).save_pretrained(tmp_path, max_shard_size="4KB")
        assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    else:
        torch.save(pair.read(folder).state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    found, wanted = pair.ours.from_pretrained(tmp_path), pair.ours.from_pretrained(folder)
    torch.testing.assert_close(found.state_dict(), wanted.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(("side", "max_shard_size"), [("left", "5GB"), ("right", "3KB")])
def test_transformers_reads_it_back(saved: tuple[Pair, Path], side: str, max_shard_size: str, tmp_path: Path) -> None:
    pair, folder = saved
    ours = pair.ours.from_pretrained(folder)
    ours.save_pretrained(tmp_path, layout="huggingface", max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors").exists() == (max_shard_size == "5GB")
    assert_same_outputs(pair, ours, pair.read(tmp_path), side)


@pytest.mark.parametrize(
    ("name", "pair", "changes"),
    [
        ("BertModel", "bert", {}),
        ("BertForEmbedding", "bert", {}),
        ("BertForMaskLM", "bert-mask", {}),
        ("BertForMaskLM", "bert-mask-untied", {"tie_word_embeddings": False}),
        ("BertForClsClassifier", "bert-classes", {"class_num": 5}),
        ("BertForSequenceLabeling", "bert-tokens", {"class_num": 5}),
        ("GPT2Model", "gpt2", {}),
        ("GPT2Model", "gpt2", {"tie_word_embeddings": False}),
        ("T5Model", "t5", {}),
        ("T5Model", "t5-v1.1", tiny.GATED),
    ],
    ids=tiny.label,
)
def test_transformers_reads_our_own_models(name: str, pair: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.build(name, **changes)
    model.save_pretrained(tmp_path, layout="huggingface")
    assert_same_outputs(PAIRS[pair], model, PAIRS[pair].read(tmp_path), "right")


def test_another_number_of_classes_reaches_transformers(tmp_path: Path) -> None:
    """The names of the old classes do not outlive them."""
    folder = tmp_path / "five"
    pair = PAIRS["bert-classes"]
    pair.build().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model = BertForClsClassifier.init_from_json(folder / "config.json", class_num=3)
    model.save_pretrained(tmp_path / "three", layout="huggingface")
    assert pair.read(tmp_path / "three").config.num_labels == 3
