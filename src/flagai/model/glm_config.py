"""The configuration of GLM, the original series."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flagai.catalog.card import MODEL_TYPES
from flagai.model.config import ModelConfig
from flagai.model.config_fields import COUNT, HEADS, LAYERS, PROBABILITY, SCALE, SIZE, VOCABULARY, setting
from flagai.typed_json import Fields


@dataclass(kw_only=True)
class GLMConfig(ModelConfig):
    """GLM's configuration, under the key names of FlagAI's and THUDM's files."""

    family: ClassVar[str] = "glm"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["glm"]
    fixed: ClassVar[dict[str, Any]] = {"relative_encoding": False}  # Transformer-XL; no published GLM has it

    num_layers: int = setting(range=LAYERS, doc="number of transformer blocks")
    vocab_size: int = setting(range=VOCABULARY, doc="rows of the token embedding")
    hidden_size: int = setting(range=SIZE, doc="size of the hidden states")
    num_attention_heads: int = setting(range=HEADS, doc="number of attention heads; they divide hidden_size")
    max_sequence_length: int = setting(
        range=SIZE, doc="rows of the position embeddings; with block positions there is one more"
    )
    embedding_dropout_prob: float = setting(0.1, range=PROBABILITY, doc="dropout of the embeddings")
    attention_dropout_prob: float = setting(0.1, range=PROBABILITY, doc="dropout of the attention weights")
    output_dropout_prob: float = setting(
        0.1, range=PROBABILITY, doc="dropout of what each block adds to the residual stream"
    )
    max_memory_length: int = setting(0, range=COUNT, doc="kept for the files; no effect")
    checkpoint_num_layers: int = setting(1, range=LAYERS, doc="blocks that checkpoint_activations recomputes together")
    parallel_output: bool = setting(True, doc="kept for the files; no effect")
    relative_encoding: bool = setting(False, doc="positions of Transformer-XL: False only")
    block_position_encoding: bool = setting(True, doc="a second position, inside the span, has an embedding of its own")
    output_predict: bool = setting(True, doc="the model returns logits; else hidden states")
    spell_length: int | None = setting(None, range=COUNT, doc="learned prompt tokens (P-tuning); null for none")
    spell_func: str = setting("lstm", doc="what the learned prompt goes through: lstm, mlp or none")
    attention_scale: float = setting(
        1.0, range=(1, 2**31), doc="guards the original's kernel against overflow; neutral in exact arithmetic"
    )
    layernorm_epsilon: float = setting(1e-5, range=PROBABILITY, doc="epsilon of the layer norms")
    initializer_range: float = setting(0.02, range=SCALE, doc="standard deviation of randomly initialized weights")
    class_num: int | None = setting(
        None, range=SIZE, aliases=("num_labels",), doc="number of classes, for classification"
    )
    hidden_dropout: float = setting(0.1, range=PROBABILITY, doc="dropout of the classification head")
    pool_token: str = setting("cls", doc="the token whose hidden state is classified: cls, start or pad")
    take_softmax: bool | None = setting(None, doc="cloze scores are log-probabilities; null: of multi-token cloze only")
    length_penalty: float = setting(
        0.0, range=(-1000, 1000), doc="multi-token cloze divides scores by length ** length_penalty"
    )

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with a padding id, if one is stated, as an integer."""
        padding = Fields(values, cls.__name__).integer("pad_token_id", None)
        return values if padding is None else {**values, "pad_token_id": padding}

    def check(self) -> None:
        """Refuse values that are impossible, or contradict each other."""
        width, heads = self.hidden_size, self.num_attention_heads
        self.require(width % heads == 0, f"hidden_size {width} is not a multiple of {heads} heads")
        self.require(
            self.pool_token in ("cls", "start", "pad"), f"pool_token is {self.pool_token!r}; known: cls, start, pad"
        )
