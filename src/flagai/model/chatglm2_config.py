"""The configuration of ChatGLM2, ChatGLM3, CodeGeeX2, GLM-4 and GLM-4-0414."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flagai.catalog.card import MODEL_TYPES
from flagai.model.chatglm_config import as_own_quantization
from flagai.model.config import ModelConfig
from flagai.model.config_fields import COUNT, HEADS, LAYERS, PROBABILITY, SCALE, SIZE, TOKEN_ID, VOCABULARY, setting
from flagai.model.generation_defaults import token_ids, with_end_tokens
from flagai.typed_json import Fields, shown

ORIGINAL = "chatglm"
_THETA = 10000.0


@dataclass(kw_only=True)
class ChatGLM2Config(ModelConfig):
    """The configuration of the original format and of transformers' ``glm`` and ``glm4``, under the latter's names."""

    family: ClassVar[str] = "chatglm2"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["chatglm2"]
    fixed: ClassVar[Mapping[str, Any]] = {
        "rmsnorm": True,
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
        "post_layer_norm": True,
        "fp32_residual_connection": False,
        "original_rope": True,  # False in CogAgent and CogVLM: other pairs of features
        "interleaved_qkv": False,
        "hidden_act": "silu",
        "quantization_embeddings": False,
    }

    vocab_size: int = setting(range=VOCABULARY, aliases=("padded_vocab_size",), doc="rows of the token embedding")
    hidden_size: int = setting(range=SIZE, doc="size of the hidden states")
    intermediate_size: int = setting(
        range=SIZE, aliases=("ffn_hidden_size",), doc="inner size of the feed-forward layers"
    )
    num_hidden_layers: int = setting(range=LAYERS, aliases=("num_layers",), doc="number of transformer blocks")
    num_attention_heads: int = setting(range=HEADS, doc="number of heads of queries")
    num_key_value_heads: int = setting(
        2, range=HEADS, aliases=("multi_query_group_num",), doc="number of heads of keys and values; they divide those"
    )
    multi_query_attention: bool = setting(True, doc="false: as many heads of keys and values as of queries")
    head_dim: int = setting(128, range=SIZE, aliases=("kv_channels",), doc="size of a head")
    rms_norm_eps: float = setting(
        1e-5, range=PROBABILITY, aliases=("layernorm_epsilon",), doc="epsilon of the RMS norms"
    )
    attention_bias: bool = setting(True, aliases=("add_qkv_bias",), doc="queries, keys and values have biases")
    sandwich_norm: bool = setting(False, doc="a second norm after each sublayer, as in transformers' glm4")
    rope_theta: float = setting(_THETA, range=(1, 2**60), doc="base of the rotary frequencies")
    partial_rotary_factor: float = setting(0.5, range=PROBABILITY, doc="the share of a head that is turned")
    rope_interpolation: float = setting(1.0, range=(1, 2**20), doc="positions are divided by it, as in chatglm2-6b-32k")
    max_position_embeddings: int = setting(
        32768,
        range=(1, 2**31),
        aliases=("seq_length",),
        doc="tokens of a text in training; longer ones are not refused",
    )
    attention_dropout: float = setting(0.0, range=PROBABILITY, doc="dropout of the attention weights")
    hidden_dropout: float = setting(0.0, range=PROBABILITY, doc="dropout of what each block adds, and of a classifier")
    tie_word_embeddings: bool = setting(False, doc="the language-model head shares the token embedding")
    pad_token_id: int | None = setting(None, range=TOKEN_ID, doc="the padding token; only to fill rows up")
    class_num: int | None = setting(
        None, range=SIZE, aliases=("num_labels",), doc="number of classes, for classification"
    )
    classifier_bias: bool = setting(True, doc="whether the classifier has a bias; transformers' has none")
    pre_seq_len: int | None = setting(
        None, range=COUNT, doc="learned keys in front of a text (P-Tuning v2); null: none"
    )
    prefix_projection: bool = setting(False, doc="the learned keys go through two linear layers")
    initializer_range: float = setting(0.02, range=SCALE, doc="standard deviation of randomly initialized weights")

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """The values with the ids that end an answer, which may stand in generation_config.json."""
        return values if "eos_token_id" in settled else with_end_tokens(values, folder)

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with rotary positions in one of their three spellings."""
        values = as_own_quantization(values)
        stated = Fields(values, cls.__name__)
        kind = stated.text("model_type", ORIGINAL)
        rotary = _rotary(values, stated)
        said = {"hidden_act": "silu", **_CONSTANT}
        values = {key: value for key, value in values.items() if key not in _ROTARY and said.get(key) != value}
        own: dict[str, Any] = {"sandwich_norm": kind == "glm4", "classifier_bias": kind == ORIGINAL}
        if values.get("multi_query_attention") is False:
            own["num_key_value_heads"] = values.get("num_attention_heads")
            values = {key: value for key, value in values.items() if key != "multi_query_group_num"}
        return {**own, **rotary, **values}

    def check(self) -> None:
        """Refuse values that are impossible, or contradict each other."""
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        self.require(heads % groups == 0, f"{heads} heads of queries cannot share {groups} heads of keys")
        turned = self.rotary_features
        self.require(
            turned % 2 == 0 and 0 < turned <= self.head_dim,
            f"partial_rotary_factor {self.partial_rotary_factor} turns {turned} of the {self.head_dim} features",
        )
        token_ids(Fields({"eos_token_id": self.get("eos_token_id")}, type(self).__name__), "eos_token_id")

    @property
    def rotary_features(self) -> int:
        """How many features of a head are turned."""
        return int(self.head_dim * self.partial_rotary_factor)

    def in_layout(self, layout: str) -> dict[str, Any]:
        """The content of a config.json for a layout: the original's keys besides ours, or those of transformers."""
        own = self.to_dict()
        if layout == "huggingface":
            theirs = {key: value for key, value in own.items() if key not in _OURS_ALONE}
            rotary = {"rope_type": "default", **{key: own[key] for key in ("rope_theta", "partial_rotary_factor")}}
            if self.rope_interpolation != 1:
                rotary |= {"rope_type": "linear", "factor": self.rope_interpolation}
            kind = "glm4" if self.sandwich_norm else "glm"
            return {**theirs, "model_type": kind, "hidden_act": "silu", "rope_parameters": rotary}
        if self.sandwich_norm:
            return own
        theirs = {alias: own[name] for alias, name in _ORIGINAL_KEYS.items()}
        ratio = self.rope_theta / _THETA
        return {**_CONSTANT, **own, **theirs, "model_type": ORIGINAL, "rope_ratio": ratio}


_ORIGINAL_KEYS = {
    "padded_vocab_size": "vocab_size",
    "ffn_hidden_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "multi_query_group_num": "num_key_value_heads",
    "kv_channels": "head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "add_qkv_bias": "attention_bias",
    "seq_length": "max_position_embeddings",
}
_OURS_ALONE = {"sandwich_norm", "auto_map"}
_ROTARY = {"rope_ratio", "rope_parameters"}
_CONSTANT = {"rmsnorm": True, "add_bias_linear": False, "post_layer_norm": True, "original_rope": True}


def _rotary(values: Mapping[str, Any], stated: Fields) -> dict[str, Any]:
    """Base, share and interpolation: of ``rope_parameters`` (transformers 5), or of the original's ``rope_ratio``."""
    found = {**stated.mapping("rope_scaling"), **stated.mapping("rope_parameters")}
    kind = found.get("rope_type", "default")
    if kind not in ("default", "linear"):
        stated.wrong("rope_parameters", f"the rope_type 'default' or 'linear', not {shown(kind)}")
    given: dict[str, Any] = {key: found[key] for key in ("rope_theta", "partial_rotary_factor") if key in found}
    if kind == "linear":
        given["rope_interpolation"] = found.get("factor")
    ratio = stated.number("rope_ratio", None)
    if ratio is None or "rope_theta" in values:
        return given
    # Its code divides positions, where that of its successors multiplies the base; nothing but the name tells.
    if "chatglm2" in stated.text("_name_or_path", ""):
        return {"rope_interpolation": ratio}
    return {"rope_theta": _THETA * ratio}
