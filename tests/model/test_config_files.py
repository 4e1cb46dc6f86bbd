"""What config.json and the files beside it say is honoured, or refused by name."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.data.prepare.batch import checked_limit
from flagai.errors import ConfigError, InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertConfig, BertForSequenceLabeling, BertModel
from flagai.model.config import ModelConfig
from flagai.model.config_fields import setting
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Config
from flagai.model.t5_model import T5Config
from tests import tiny
from tests.model.config_files import written

BERT, GPT2, T5 = tiny.CONFIGS["bert"], tiny.CONFIGS["gpt2"], tiny.CONFIGS["t5"]
OF_TRANSFORMERS = {key: value for key, value in BERT.items() if key != "class_num"} | {"model_type": "bert"}


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "values", "field", "wanted"),
    [
        (BertConfig, {"hidden_size": 12.0}, "hidden_size", 12),
        (BertConfig, {"hidden_size": "12"}, "hidden_size", 12),
        (BertConfig, {"layer_norm_eps": "1e-12"}, "layer_norm_eps", 1e-12),
        (BertConfig, {"layer_norm_eps": None}, "layer_norm_eps", 1e-12),
        (BertConfig, {"layernorm_epsilon": None, "layer_norm_eps": 0.5}, "layer_norm_eps", 0.5),
        (BertConfig, {"position_embedding_type": None, "is_decoder": None}, "hidden_act", "gelu"),
        (BertConfig, {"is_decoder": 0, "pruned_heads": {}, "quantization_config": None}, "hidden_act", "gelu"),
        (BertConfig, {"pad_token_id": None}, "pad_token_id", 0),
        (BertConfig, {"id2label": None}, "class_num", None),
        (BertConfig, {"id2label": {}}, "class_num", None),
        (BertConfig, {"id2label": ["A", "B", "C"]}, "class_num", 3),
        (BertConfig, {"id2label": {"0": "A"}}, "class_num", 1),
        (BertConfig, {"num_labels": "5"}, "class_num", 5),
        (BertConfig, {"architectures": "BertForTokenClassification"}, "class_num", 2),
        (BertConfig, {"architectures": ["BertForTokenClassification"], "id2label": None}, "class_num", 2),
        (BertConfig, {"architectures": None, "model_type": "BERT"}, "class_num", None),
        (BertConfig, {"vocab_size": None, "vocab_size_or_config_json_file": 30}, "vocab_size", 30),
        (GPT2Config, {"n_positions": None, "n_ctx": 48}, "n_positions", 48),
        (GPT2Config, {"scale_attn_weights": 1}, "n_head", 3),
        (T5Config, {"num_decoder_layers": None, "pad_token_id": None}, "pad_token_id", 0),
        (T5Config, {"tie_word_embeddings": 0}, "tie_word_embeddings", False),
        (T5Config, {"head_dim": 7}, "d_kv", 7),
    ],
)
def test_what_the_world_writes(cls: type[ModelConfig], values: dict[str, Any], field: str, wanted: Any) -> None:
    base = OF_TRANSFORMERS if cls is BertConfig else tiny.CONFIGS[cls.family]
    found = getattr(cls.from_dict(base | values), field)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (BertConfig, {"id2label": {"LABEL_0": "O"}}, "id2label: .*not a table of numbers and names"),
        (BertConfig, {"id2label": "O"}, "id2label: 'O' is not an object"),
        (BertConfig, {"id2label": [["O"]]}, "id2label"),
        (BertConfig, {"model_type": 3}, "model_type: 3 is not a text"),
        (BertConfig, {"architectures": {"a": 1}}, "architectures"),
        (BertConfig, {"problem_type": "ranking"}, "problem_type is 'ranking'; known"),
        (BertConfig, {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        (BertConfig, {"pruned_heads": {"0": [1]}}, "pruned_heads=.* is not supported"),
        (BertConfig, {"per_layer_config": {"0": {"hidden_act": "relu"}}}, "per_layer_config"),
        (BertConfig, {"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
        (BertConfig, {"pad_token_id": 31}, "pad_token_id 31 is outside of the vocabulary"),
        (BertConfig, {"model_type": "roberta", "pad_token_id": None}, "positions count from it"),
        (
            BertConfig,
            {"model_type": "roberta", "architectures": ["BertModel"]},
            "pass position_offset=0|position_offset",
        ),
        (BertConfig, {"model_type": "roberta", "max_position_embeddings": 2}, "leaves no position"),
        (GPT2Config, {"scale_attn_weights": False}, "scale_attn_weights=False is not supported, only True"),
        (GPT2Config, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2Config, {"eos_token_id": [1, "x"]}, "eos_token_id: .* is not an id or a list of ids"),
        (T5Config, {"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj"),
        (T5Config, {"relative_attention_num_buckets": 2}, "at least 4 buckets"),
        (T5Config, {"relative_attention_max_distance": 4}, "relative_attention_max_distance 4 does not fit"),
        (T5Config, {"decoder_start_token_id": 41}, "decoder_start_token_id 41 is outside"),
        (T5Config, {"scale_decoder_outputs": "yes"}, "scale_decoder_outputs"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(
    cls: type[ModelConfig], values: dict[str, Any], message: str
) -> None:
    base = OF_TRANSFORMERS if cls is BertConfig else tiny.CONFIGS[cls.family]
    with pytest.raises(ConfigError, match=f"some.json.*{message}"):
        cls.from_dict(base | values, source="some.json")


@pytest.mark.parametrize(
    ("values", "gated", "activation"),
    [
        ({}, False, "relu"),
        ({"feed_forward_proj": "gated-gelu"}, True, "gelu_new"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "is_gated_act": True}, True, "gelu"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"}, True, "silu"),
        ({"feed_forward_proj": "gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}, True, "gelu_new"),
        ({"feed_forward_proj": "gated-silu", "is_gated_act": False}, False, "silu"),
        ({"feed_forward_proj": None, "dense_act_fn": None}, False, "relu"),
        ({"model_type": "mt5", "feed_forward_proj": None}, True, "gelu_new"),
    ],
)
def test_activations_of_every_t5(values: dict[str, Any], gated: bool, activation: str) -> None:
    config = T5Config.from_dict(T5 | values)
    assert (config.gated, config.activation) == (gated, activation)
    again = T5Config.from_dict(config.to_dict())
    assert (again.gated, again.activation) == (gated, activation)
    assert None not in [again.to_dict().get(key, "absent") for key in ("dense_act_fn", "is_gated_act")]
    silu = T5Config.from_dict(T5 | values, feed_forward_proj="silu")
    assert (silu.gated, silu.activation) == (False, "silu")


def test_an_mt5_stays_one() -> None:
    content = {key: value for key, value in T5.items() if key != "model_type"}
    config = T5Config.from_dict(content | {"architectures": ["MT5ForConditionalGeneration"]})
    again = T5Config.from_dict(config.to_dict() | {"architectures": ["T5Model"]})
    assert (config.scaled_head, again.scaled_head, again.activation) == (False, False, "gelu_new")


# -- models of one's own -----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class OwnConfig(ModelConfig):
    family, model_types = "own", ("own",)
    rope_scale: float = 0.5
    num_experts: int = 0
    dropout_seed: int = -1
    layers: int = 0
    heads: int = setting(2, range=(1, 8), aliases=("num_heads",))
    sizes: list[int] | None = None
    anything: Any = None


def test_ranges_belong_to_fields_and_not_to_names() -> None:
    config = OwnConfig.from_dict({"anything": {"a": 1}, "sizes": [1]})
    assert (config.rope_scale, config.num_experts, config.dropout_seed, config.layers) == (0.5, 0, -1, 0)
    with pytest.raises(ConfigError, match="heads is 9, expected a number from 1 to 8"):
        OwnConfig.from_dict({"num_heads": 9})
    with pytest.raises(ConfigError, match="sizes"):
        OwnConfig.from_dict({"sizes": 3})


class Mine(BaseModel):
    """As FlagAI's users write it."""

    def __init__(self, config: Any, class_num: int = 2, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.scale = kwargs.get("scale", 1)
        self.layer = nn.Linear(config["width"], class_num)
        self.norm = nn.BatchNorm1d(self.config.width)

    def forward(self, x: torch.Tensor, **redundant: Any) -> dict[str, torch.Tensor]:
        self.ignore(redundant)
        return {"logits": self.layer(self.norm(x)) * self.scale}


def test_a_model_without_a_configuration_class(tmp_path: Path) -> None:
    file = written(tmp_path, {"width": 3, "class_num": 4, "model_type": "mine", "a": {"b": [1]}}, {})
    torch.manual_seed(0)
    model = Mine.init_from_json(file, scale=2).eval()
    assert model.layer.weight.shape == (4, 3)
    assert model.scale == 2
    assert model.norm.weight.tolist() == [1, 1, 1], "layers keep the values that their constructors gave them"
    x = torch.randn(2, 3)
    model.save_pretrained(tmp_path / "saved")
    again = Mine.from_pretrained(tmp_path / "saved", scale=2)
    assert torch.equal(again(x)["logits"], model(x)["logits"])
    assert Mine.from_pretrained(tmp_path / "saved", dtype="float16").layer.weight.dtype == torch.float16
    assert (again.config.width, again.config["a"], again.config.get("none", 7)) == (3, {"b": [1]}, 7)
    assert Mine({"width": 5}).config.width == 5
    with pytest.raises(AttributeError, match=r"no 'height'\. It has"):
        _ = model.config.height


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages_do_not_propose_what_was_typed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path, BERT, {})
    with pytest.raises(ConfigError, match="'quantize': it is an argument of from_pretrain") as caught:
        BertModel.init_from_json(file, quantize="int8")
    assert "Did you mean" not in str(caught.value)
    model = BertModel.init_from_json(file).eval()
    with caplog.at_level(logging.WARNING):
        model(torch.tensor([[2, 3]]), redundant=1)
        assert "Did you mean" not in caplog.text
        model(torch.tensor([[2, 3]]), atention_mask=torch.ones(1, 2))
        assert "Did you mean 'attention_mask'" in caplog.text
    with pytest.raises(InputError, match="lower the answer's"):
        checked_limit(0)


@torch.no_grad()
def test_an_empty_list_of_memories_is_no_memory() -> None:
    model = tiny.build("GLMModel").eval()
    ids = torch.tensor([[2, 3, 4]])
    assert isinstance(model, GLMModel)
    assert torch.equal(model(ids, mems=[])["logits"], model(ids)["logits"])
    with pytest.raises(InputError, match="mems is of type list"):
        model(ids, mems=[ids])


def test_contradicting_names_of_one_setting_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert GPT2Config.from_dict(GPT2 | {"hidden_size": 24}).n_embd == 24
    assert "hidden_size=24 counts, n_embd=12 does not" in caplog.text


def test_labels_of_a_list_are_read(tmp_path: Path) -> None:
    config = BertConfig.from_dict(OF_TRANSFORMERS | {"id2label": ["O", "B-X"]})
    assert config["id2label"] == {"0": "O", "1": "B-X"}
    assert BertForSequenceLabeling(config).tagger.weight.shape[0] == 2
