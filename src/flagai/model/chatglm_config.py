"""The configuration of ChatGLM-6B and GLM-130B."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flagai.catalog.card import MODEL_TYPES
from flagai.checkpoint.published_quantization import BITS
from flagai.errors import ConfigError
from flagai.model.config import ModelConfig
from flagai.model.config_fields import COUNT, HEADS, LAYERS, PROBABILITY, SCALE, SIZE, TOKEN_ID, VOCABULARY, setting
from flagai.typed_json import shown

_GLM_130B = "glm-130b"


def as_own_quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    """Content whose ``quantization_bit`` is said in our own way: published int8 and int4 are opened as int8."""
    bits = values.get("quantization_bit")
    rest = {key: value for key, value in values.items() if key != "quantization_bit"}
    if bits not in (None, 0, *BITS):
        raise ConfigError(f"quantization_bit is {shown(bits)}; known: 0, 4 and 8.")
    return {"quantized": "int8", **rest} if bits else rest


@dataclass(kw_only=True)
class ChatGLMConfig(ModelConfig):
    """ChatGLM-6B's configuration, under the key names of its files."""

    family: ClassVar[str] = "chatglm"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["chatglm"]
    fixed: ClassVar[Mapping[str, Any]] = {"quantization_embeddings": False}  # the earliest int4 files

    vocab_size: int = setting(range=VOCABULARY, doc="rows of the token embedding")
    hidden_size: int = setting(range=SIZE, doc="size of the hidden states")
    inner_hidden_size: int = setting(range=SIZE, doc="inner size of the feed-forward layers")
    num_layers: int = setting(range=LAYERS, aliases=("num_hidden_layers",), doc="number of transformer blocks")
    num_attention_heads: int = setting(range=HEADS, doc="number of attention heads; they divide hidden_size")
    layernorm_epsilon: float = setting(1e-5, range=PROBABILITY, doc="epsilon of the layer norms")
    max_sequence_length: int = setting(
        2048, range=SIZE, doc="tokens of a text in training; longer ones are not refused"
    )
    position_encoding_2d: bool = setting(True, doc="half of a head is turned by the position inside the answer")
    half_frequencies: bool = setting(True, doc="rotary frequencies are rounded to float16, as in training")
    gated: bool = setting(False, doc="gated feed-forward layers, as in GLM-130B")
    bos_token_id: int = setting(130004, range=TOKEN_ID, doc="the token that starts an answer, <sop>")
    mask_token_id: int = setting(130000, range=TOKEN_ID, doc="[MASK]: a short blank")
    gmask_token_id: int = setting(130001, range=TOKEN_ID, doc="[gMASK]: the answer")
    pad_token_id: int = setting(3, range=TOKEN_ID, doc="the padding token")
    tie_word_embeddings: bool = setting(True, doc="the language-model head shares the token embedding")
    pre_seq_len: int | None = setting(
        None, range=COUNT, doc="learned keys in front of a text (P-Tuning v2); null: none"
    )
    prefix_projection: bool = setting(False, doc="the learned keys go through two linear layers")
    initializer_range: float = setting(0.02, range=SCALE, doc="standard deviation of randomly initialized weights")

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values; GLM-130B, which has no config.json of its own, is recognized by its name or its norms."""
        values = as_own_quantization(values)
        if values.get("model_type") == _GLM_130B or values.get("layernorm_order") == "post":
            return {"position_encoding_2d": False, "half_frequencies": False, "gated": True, **values}
        return values

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden_size // self.num_attention_heads

    def check(self) -> None:
        """Refuse values that are impossible, or contradict each other."""
        width, heads = self.hidden_size, self.num_attention_heads
        self.require(width % heads == 0, f"hidden_size {width} is not a multiple of {heads} heads")
        unit = 4 if self.position_encoding_2d else 2
        self.require(self.head_dim % unit == 0, f"heads of {self.head_dim} cannot be turned: {unit} must divide them")
