"""What holds for every class: complete tables, forgiving arguments, strict configurations."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint.names import LAYOUTS
from flagai.errors import ConfigError
from flagai.model import inputs
from flagai.model.bert_model import BertConfig, BertForClsClassifier, BertModel
from flagai.model.config import ModelConfig
from flagai.model.config_fields import field_specs
from flagai.model.glm_model import GLMConfig, GLMModel
from flagai.model.gpt2_model import GPT2Config, GPT2Model
from flagai.model.t5_model import T5Config, T5Model
from flagai.parallel.plan import shard_dimension
from tests import tiny

FAMILIES = {cls.config_class.family: cls for cls in (GLMModel, BertModel, GPT2Model, T5Model)}

# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), tiny.EVERY, ids=tiny.label)
def test_the_plan_knows_every_parameter(name: str, changes: dict[str, Any]) -> None:
    model = tiny.build(name, **changes)
    for key, parameter in model.named_parameters(remove_duplicate=False):
        dimension = shard_dimension(model.plan, key)  # a KeyError names what is missing
        assert dimension is None or dimension < parameter.dim(), key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "changes"), tiny.EVERY, ids=tiny.label)
def test_the_names_know_every_parameter(name: str, changes: dict[str, Any], layout: str) -> None:
    """Each parameter has a place in each layout, and fused tensors have all their parts."""
    model = tiny.build(name, **changes)
    keys = [key for key, _ in model.named_parameters(remove_duplicate=False)]
    plan = model.names.plan_file(keys, layout, prefix="")
    assert {ours for sources in plan.values() for _, ours in sources} == set(keys)
    for theirs, sources in plan.items():
        count = sources[0][0].row.part[1]
        assert [window.row.part for window, _ in sources] == [(k, count) for k in range(count)], theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_no_name_begins_with_a_prefix_that_is_dropped(family: str) -> None:
    names = FAMILIES[family].names
    for entry in names.rows:
        for name in (entry.theirs, entry.ours):
            assert names.canonical(name) == name
            assert names.canonical("".join(names.prefixes) + name) == name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_of_a_file_means_one_thing_per_layout(family: str) -> None:
    """Two parameters share a tensor only as its parts, or as the same layer of two heads."""
    names = FAMILIES[family].names
    heads = {"tagger.{p}", "classifier.{p}"}
    for layout in names.layouts:
        rows = [entry for entry in names.rows if entry.serves(layout) and entry.ours not in heads]
        places = [(entry.theirs, entry.part) for entry in rows]
        assert len(set(places)) == len(places)


# -- arguments of forward ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CLASSES)
@torch.no_grad()
def test_redundant_arguments_change_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, arguments = tiny.build(name), tiny.batch(name)
    wanted = model(**arguments)["logits"]
    with caplog.at_level(logging.WARNING):
        found = model(**arguments, mode="train", meta=[1], padding_side=None)["logits"]
    assert torch.equal(found, wanted)
    assert not caplog.records


@pytest.mark.parametrize("name", tiny.CLASSES)
@torch.no_grad()
def test_a_near_miss_warns_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    inputs.warn_of_near_miss.cache_clear()
    model, arguments = tiny.build(name), tiny.batch(name)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model(**arguments, atention_mask=torch.ones(3, 7))
    (record,) = caplog.records
    assert record.name.startswith("flagai")
    assert "'atention_mask'" in record.message
    assert "'attention_mask'" in record.message


@torch.no_grad()
def test_an_ignored_argument_that_counts_in_transformers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    inputs.warn_of_near_miss.cache_clear()
    model, arguments = tiny.build("GPT2Model"), tiny.batch("GPT2Model")
    model(**arguments, token_type_ids=None)
    assert not caplog.records
    model(**arguments, token_type_ids=torch.zeros_like(arguments["input_ids"]))
    assert "ignores the argument 'token_type_ids'; a model of transformers may not" in caplog.text


# -- configurations ----------------------------------------------------------------------------------------------------

CONFIGS: list[type[ModelConfig]] = [GLMConfig, BertConfig, GPT2Config, T5Config]
BERT = tiny.CONFIGS["bert"]
FLAGAI_BERT = {key: value for key, value in BERT.items() if key not in ("model_type", "intermediate_size")}


@pytest.mark.parametrize(
    ("cls", "values", "field", "wanted"),
    [
        (BertConfig, BERT, "layer_norm_eps", 1e-12),
        (BertConfig, FLAGAI_BERT, "layer_norm_eps", 1e-6),
        (BertConfig, FLAGAI_BERT | {"layernorm_epsilon": 1e-5, "layer_norm_eps": 1e-7}, "layer_norm_eps", 1e-5),
        (BertConfig, FLAGAI_BERT, "intermediate_size", None),
        (BertConfig, FLAGAI_BERT | {"num_labels": 9, "class_num": None}, "class_num", 9),
        (BertConfig, FLAGAI_BERT | {"id2label": {"0": "A", "1": "B"}}, "class_num", 4),
        (BertConfig, BERT | {"model_type": "roberta", "pad_token_id": 1}, "position_offset", 2),
        (GLMConfig, tiny.CONFIGS["glm"] | {"model_type": "glm"}, "num_layers", 2),
        (GLMConfig, tiny.CONFIGS["glm"] | {"attention_scale": 8}, "attention_scale", 8.0),
        (GPT2Config, tiny.CONFIGS["gpt2"], "pad_token_id", 0),
        (GPT2Config, tiny.CONFIGS["gpt2"] | {"bos_token_id": 3}, "pad_token_id", None),
        (GPT2Config, tiny.CONFIGS["gpt2"] | {"bos_token_id": 50256}, "pad_token_id", 0),
        (GPT2Config, {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "n_head": 2}, "n_embd", 8),
        (T5Config, tiny.CONFIGS["t5"] | {"model_type": "mt5"}, "d_kv", 5),
        (T5Config, tiny.CONFIGS["t5"] | {"feed_forward_proj": "gated-gelu"}, "activation", "gelu_new"),
        (T5Config, tiny.CONFIGS["t5"] | {"feed_forward_proj": "gated-silu"}, "activation", "silu"),
        (T5Config, tiny.CONFIGS["t5"], "scaled_head", True),
        (T5Config, tiny.CONFIGS["t5"] | {"tie_word_embeddings": False}, "scaled_head", False),
        (T5Config, tiny.CONFIGS["t5"] | {"scale_decoder_outputs": False}, "scaled_head", False),
        (T5Config, tiny.CONFIGS["t5"] | {"model_type": "mt5"}, "scaled_head", False),
        (T5Config, tiny.CONFIGS["t5"] | {"decoder_start_token_id": None, "pad_token_id": 3}, "start_token", 3),
    ],
)
def test_published_keys(cls: type[ModelConfig], values: dict[str, Any], field: str, wanted: Any) -> None:
    assert getattr(cls.from_dict(values), field) == wanted


def test_names_of_classes_count_them() -> None:
    unnamed = {key: value for key, value in BERT.items() if key != "class_num"}
    assert BertConfig.from_dict({**unnamed, "id2label": {"0": "A", "1": "B", "2": "C"}}).class_num == 3


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(BERT))
    config = BertConfig.from_json(file, num_labels=9, checkpoint_activations=True, layernorm_epsilon=0.5)
    assert (config.class_num, config.checkpoint_activations, config.layer_norm_eps) == (9, True, 0.5)
    model = BertForClsClassifier.init_from_json(file, class_num=2)
    assert model.classifier.weight.shape == (2, 12)


@pytest.mark.parametrize(
    ("cls", "override", "hint"),
    [
        (GLMConfig, {"num_layer": 3}, "'num_layers'"),
        (BertConfig, {"hiden_size": 3}, "'hidden_size'"),
        (GPT2Config, {"n_emb": 3}, "'n_embd'"),
        (T5Config, {"d_modell": 3}, "'d_model'"),
        (T5Config, {"qqq": 3}, "d_model"),
    ],
)
def test_an_unknown_override_names_the_nearest_setting(
    cls: type[ModelConfig], override: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"{cls.__name__} has no setting .*{next(iter(override))}.*{hint}"):
        cls.from_dict(tiny.CONFIGS[cls.family], **override)


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_configuration_survives_its_file(cls: type[ModelConfig], tmp_path: Path) -> None:
    """Keys that mean nothing to us survive too, whatever their names are."""
    foreign = {"task_specific_params": {"a": [1, None]}, "extra": {"b": 2}, "注": "是"}
    config = cls.from_dict(tiny.CONFIGS[cls.family] | foreign)
    config.to_json(tmp_path / "config.json", architectures=["Some"])
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert foreign.items() <= content.items()
    assert content["architectures"] == ["Some"]
    assert content["model_type"] == cls.family
    again = cls.from_json(tmp_path / "config.json")
    assert again.replace(extra={}) == config.replace(extra={})
    assert again.to_dict() == {**config.to_dict(), "architectures": ["Some"]}


@pytest.mark.parametrize("described", FAMILIES)
@pytest.mark.parametrize("cls", CONFIGS)
def test_another_family_is_refused(cls: type[ModelConfig], described: str) -> None:
    values = tiny.CONFIGS[described]
    unnamed = {key: value for key, value in values.items() if key != "model_type"}
    signed = unnamed | {"glm": {"block_position_encoding": True}, "bert": {"type_vocab_size": 2}}.get(described, {})
    for content in (values | {"model_type": described}, signed):
        if described == cls.family:
            assert cls.from_dict(content)
        else:
            with pytest.raises(ConfigError, match=f"{described} model, not a {cls.family} .*{described}_model"):
                cls.from_dict(content)


@pytest.mark.parametrize("stated", ["xlm-roberta", "camembert", "umt5", "gpt_neo"])
@pytest.mark.parametrize("cls", CONFIGS)
def test_a_relative_of_a_family_is_refused(cls: type[ModelConfig], stated: str) -> None:
    """These have the keys and partly the tensor names of a family, but compute something else."""
    with pytest.raises(ConfigError, match=f"'{stated}' model, which is none of"):
        cls.from_dict(tiny.CONFIGS[cls.family] | {"model_type": stated})


def test_glm_4_is_another_architecture() -> None:
    glm_4 = {"model_type": "glm", "num_hidden_layers": 40, "hidden_size": 4096, "num_attention_heads": 32}
    with pytest.raises(ConfigError, match="chatglm2"):
        GLMConfig.from_dict({**glm_4, "vocab_size": 151552, "max_position_embeddings": 131072})


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (GLMConfig, {"num_attention_heads": 5}, "not a multiple of 5 heads"),
        (GLMConfig, {"relative_encoding": True}, "relative_encoding"),
        (GLMConfig, {"pool_token": "mean"}, "known: cls, start, pad"),
        (BertConfig, {"hidden_size": "twelve"}, "hidden_size is 'twelve', expected int"),
        (BertConfig, {"layer_norm_eps": [1]}, r"layer_norm_eps is \[1\], expected float"),
        (GPT2Config, {"n_head": 0}, "n_head is 0"),
        (GPT2Config, {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        (T5Config, {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected bool"),
    ],
)
def test_impossible_values_are_refused(cls: type[ModelConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"some.json: {cls.__name__}: .*{message}"):
        cls.from_dict(tiny.CONFIGS[cls.family] | changes, source="some.json")


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_missing_key_is_named(cls: type[ModelConfig]) -> None:
    required = [name for name, spec in field_specs(cls).items() if spec.required]
    assert len(required) >= 4
    for key in required:
        rest = {name: value for name, value in tiny.CONFIGS[cls.family].items() if name != key}
        with pytest.raises(ConfigError, match=rf"lacks {key}\b"):
            cls.from_dict(rest)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        GLMConfig.from_json(tmp_path / "config.json")
    for text in ("[1]", "{", "null"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            GLMConfig.from_json(tmp_path / "config.json")


def test_a_configuration_reads_like_a_dictionary() -> None:
    config = BertConfig.from_dict({**BERT, "architectures": ["BertModel"]})
    assert config["hidden_size"] == config.get("hidden_size") == 12
    assert config["layernorm_epsilon"] == config.layer_norm_eps  # FlagAI's name
    assert config["architectures"] == ["BertModel"]  # kept from the file
    assert "hidden_size" in config
    assert "layernorm_epsilon" in config
    assert "architectures" in config
    assert "n_embd" not in config
    assert config.get("n_embd", 7) == 7
    assert config.get("n_embd") is None
    with pytest.raises(KeyError, match="n_embd"):
        config["n_embd"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BertModel", {"vocab_size": -1}),
        ("BertModel", {"hidden_dropout_prob": 1.5}),
        ("BertModel", {"intermediate_size": -4}),
        ("BertModel", {"inner_dim": 5}),
        ("BertModel", {"layer_norm_eps": float("nan")}),
        ("GLMModel", {"hidden_size": 0}),
        ("GLMModel", {"num_layers": 10**9}),
        ("GLMModel", {"attention_dropout_prob": float("inf")}),
        ("GPT2Model", {"n_positions": 0}),
        ("GPT2Model", {"n_layer": True}),
        ("T5Model", {"d_kv": -2}),
        ("T5Model", {"relative_attention_num_buckets": 0}),
    ],
)
def test_numbers_out_of_range_are_named(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        tiny.config(name, **changes)
