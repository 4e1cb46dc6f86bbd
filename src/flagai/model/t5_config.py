"""T5's and mT5's configuration."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from flagai.catalog.card import MODEL_TYPES
from flagai.families.config_content import model_type_of
from flagai.model.config import ModelConfig
from flagai.model.config_fields import HEADS, LAYERS, PROBABILITY, SCALE, SIZE, TOKEN_ID, VOCABULARY, setting
from flagai.model.generation_defaults import FILE, with_end_tokens
from flagai.typed_json import Fields, read_json, shown

# Since 2022 files also say these two, which count where they differ from feed_forward_proj.
_ACTIVATION_KEYS = ("dense_act_fn", "is_gated_act")


@dataclass(kw_only=True)
class T5Config(ModelConfig):
    """T5's configuration, under the key names of Hugging Face's files, which FlagAI shares."""

    family: ClassVar[str] = "t5"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["t5"]

    vocab_size: int = setting(range=VOCABULARY, doc="rows of the token embedding")
    d_model: int = setting(range=SIZE, aliases=("hidden_size",), doc="size of the hidden states")
    d_kv: int = setting(range=HEADS, aliases=("head_dim",), doc="size of a head; heads need not divide d_model")
    d_ff: int = setting(range=SIZE, doc="inner size of the feed-forward layers")
    num_layers: int = setting(range=LAYERS, aliases=("num_hidden_layers",), doc="number of encoder blocks")
    num_heads: int = setting(range=HEADS, aliases=("num_attention_heads",), doc="number of attention heads")
    num_decoder_layers: int | None = setting(None, range=LAYERS, doc="number of decoder blocks; null for num_layers")
    relative_attention_num_buckets: int = setting(
        32, range=SIZE, doc="rows of the table of relative positions; at least 4"
    )
    relative_attention_max_distance: int = setting(128, range=SIZE, doc="distance from which on all share one bucket")
    dropout_rate: float = setting(0.1, range=PROBABILITY, doc="dropout")
    layer_norm_epsilon: float = setting(1e-6, range=PROBABILITY, doc="epsilon of the norms")
    feed_forward_proj: str = setting(
        "relu", doc='activation of the feed-forward layers, after "gated-" if they are gated'
    )
    dense_act_fn: str | None = setting(None, doc="the activation; counts where it differs from feed_forward_proj")
    is_gated_act: bool | None = setting(
        None, doc="gated feed-forward layers; counts where it differs from feed_forward_proj"
    )
    pad_token_id: int = setting(0, range=TOKEN_ID, doc="the padding token")
    decoder_start_token_id: int | None = setting(
        None, range=TOKEN_ID, doc="first token of the decoder; null for pad_token_id"
    )
    initializer_factor: float = setting(
        1.0, range=SCALE, doc="factor on the standard deviations of randomly initialized weights"
    )
    tie_word_embeddings: bool = setting(True, doc="the language-model head shares the token embedding")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration", **overrides: Any) -> Self:
        """The configuration; an override ``feed_forward_proj`` replaces the newer keys that say it in two parts."""
        if "feed_forward_proj" in overrides:
            values = {key: value for key, value in values.items() if key not in _ACTIVATION_KEYS}
        return super().from_dict(values, source, **overrides)

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with the activation in one of its spellings."""
        adapted, stated = dict(values), Fields(values, cls.__name__)
        scaled = stated.flag("scale_decoder_outputs", None)
        if _is_mt5(values):
            adapted |= {"model_type": "mt5", "feed_forward_proj": stated.text("feed_forward_proj", "gated-gelu")}
        return adapted if scaled is None else adapted | {"scale_decoder_outputs": scaled}

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """The values with the decoder's first token, which transformers may write into generation_config.json only."""
        values = with_end_tokens(values, folder)
        path, name = folder / FILE, "decoder_start_token_id"
        if values.get(name) is not None or name in settled or not path.is_file():
            return values
        return {**values, name: Fields(read_json(path), str(path)).integer(name, None)}

    def to_dict(self) -> dict[str, Any]:
        """All fields; transformers cannot read null for an activation."""
        absent = [key for key in _ACTIVATION_KEYS if getattr(self, key) is None]
        return {key: value for key, value in super().to_dict().items() if key not in absent}

    def check(self) -> None:
        """Refuse values that are impossible, or contradict each other."""
        parts = self.feed_forward_proj.split("-")
        self.require(
            len(parts) == 1 or (len(parts) == 2 and parts[0] == "gated"),
            f"feed_forward_proj is {shown(self.feed_forward_proj)}; expected an activation, after gated- or alone",
        )
        exact = self.relative_attention_num_buckets // 2
        self.require(
            exact > 1 and self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance {self.relative_attention_max_distance} does not fit "
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
