"""T5's and mT5's configuration."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from flagai.model.config import ModelConfig, model_type_of
from flagai.model.config_values import Heads, Layers, Rate, Scale, Size, TokenId, Vocabulary
from flagai.model.generation_defaults import FILE, with_end_tokens
from flagai.typed_json import Fields, read_json, shown

# Since 2022 files also say these two, which count where they differ from feed_forward_proj.
_ACTIVATION_KEYS = ("dense_act_fn", "is_gated_act")


@dataclass(kw_only=True)
class T5Config(ModelConfig):
    """T5's configuration, under the key names of Hugging Face's files, which FlagAI shares."""

    family: ClassVar[str] = "t5"
    model_types: ClassVar[tuple[str, ...]] = ("t5", "mt5")
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")

    vocab_size: Vocabulary
    d_model: Size
    d_kv: Heads
    d_ff: Size
    num_layers: Layers
    num_heads: Heads
    num_decoder_layers: Layers | None = None
    relative_attention_num_buckets: Size = 32
    relative_attention_max_distance: Size = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Rate = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    pad_token_id: TokenId = 0
    decoder_start_token_id: TokenId | None = None
    initializer_factor: Scale = 1.0
    tie_word_embeddings: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration", **overrides: Any) -> Self:
        """See the base class; ``feed_forward_proj`` replaces the newer keys that say it in two parts."""
        if "feed_forward_proj" in overrides:
            values = {key: value for key, value in values.items() if key not in _ACTIVATION_KEYS}
        return super().from_dict(values, source, **overrides)

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the base class."""
        adapted, stated = dict(values), Fields(values, cls.__name__)
        scaled = stated.flag("scale_decoder_outputs", None)
        if _is_mt5(values):
            adapted |= {"model_type": "mt5", "feed_forward_proj": stated.text("feed_forward_proj", "gated-gelu")}
        return adapted if scaled is None else adapted | {"scale_decoder_outputs": scaled}

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """See the base class: transformers may write the decoder's first token into generation_config.json only."""
        values = with_end_tokens(values, folder)
        path, name = folder / FILE, "decoder_start_token_id"
        if values.get(name) is not None or name in settled or not path.is_file():
            return values
        return {**values, name: Fields(read_json(path), str(path)).integer(name, None)}

    def to_dict(self) -> dict[str, Any]:
        """See the base class; transformers cannot read null for an activation."""
        absent = [key for key in _ACTIVATION_KEYS if getattr(self, key) is None]
        return {key: value for key, value in super().to_dict().items() if key not in absent}

    def check(self) -> None:
        """See the base class."""
        parts = self.feed_forward_proj.split("-")
        self.require(
            len(parts) == 1 or (len(parts) == 2 and parts[0] == "gated"),
            f"feed_forward_proj is {shown(self.feed_forward_proj)}; expected an activation, after gated- or alone",
        )
        exact = self.relative_attention_num_buckets // 2
        self.require(
            exact > 1 and self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance {self.relative_attention_max_distance} does not go with "
            f"relative_attention_num_buckets {self.relative_attention_num_buckets}; expected at least 4 buckets, and a "
            "distance beyond half of them",
        )
        for name in ("pad_token_id", "decoder_start_token_id"):
            number = getattr(self, name)
            inside = number is None or number < self.vocab_size
            self.require(inside, f"{name} {number} is outside of the vocabulary of {self.vocab_size}")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers are gated."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def activation(self) -> str:
        """The feed-forward layers' activation; "gated-gelu" alone has always meant the tanh form."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")

    @property
    def scaled_head(self) -> bool:
        """Whether the head reads states scaled by ``d_model ** -0.5``: a head that shares the embeddings does.

        Transformers 5 ties every head and notes in ``scale_decoder_outputs`` what was meant; mT5 never scales.
        """
        if _is_mt5(self.extra):
            return False
        noted: bool | None = self.extra.get("scale_decoder_outputs")
        return self.tie_word_embeddings if noted is None else noted

    @property
    def start_token(self) -> int:
        """The token with which the decoder begins."""
        return self.pad_token_id if self.decoder_start_token_id is None else self.decoder_start_token_id


def _is_mt5(values: Mapping[str, Any]) -> bool:
    return model_type_of(values, {"MT5": "mt5"}) == "mt5"
