"""GPT-2's configuration."""

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flagai.catalog.card import MODEL_TYPES
from flagai.data.tokenizer.padding import vocabulary_padding
from flagai.model.config import ModelConfig
from flagai.model.config_fields import HEADS, LAYERS, PROBABILITY, SCALE, SIZE, TOKEN_ID, VOCABULARY, setting
from flagai.model.generation_defaults import token_ids, with_end_tokens
from flagai.typed_json import Fields

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class GPT2Config(ModelConfig):
    """GPT-2's configuration, under the key names of Hugging Face's files, which FlagAI shares.

    ``pad_token_id`` is 0 in FlagAI's Chinese models; files of byte-level ones name a ``bos_token_id`` and no padding.
    """

    family: ClassVar[str] = "gpt2"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["gpt2"]
    fixed: ClassVar[Mapping[str, Any]] = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }

    vocab_size: int = setting(range=VOCABULARY, doc="rows of the token embedding")
    n_embd: int = setting(range=SIZE, aliases=("hidden_size",), doc="size of the hidden states")
    n_layer: int = setting(range=LAYERS, aliases=("num_hidden_layers",), doc="number of transformer blocks")
    n_head: int = setting(
        range=HEADS, aliases=("num_attention_heads",), doc="number of attention heads; they divide n_embd"
    )
    n_positions: int = setting(
        1024, range=SIZE, aliases=("max_position_embeddings",), doc="rows of the position embedding"
    )
    n_inner: int | None = setting(None, range=SIZE, doc="inner size of the feed-forward layers; null for 4 * n_embd")
    activation_function: str = setting("gelu_new", doc="activation of the feed-forward layers")
    attn_pdrop: float = setting(0.1, range=PROBABILITY, doc="dropout of the attention weights")
    embd_pdrop: float = setting(0.1, range=PROBABILITY, doc="dropout of the embeddings")
    resid_pdrop: float = setting(0.1, range=PROBABILITY, doc="dropout of what each block adds to the residual stream")
    layer_norm_epsilon: float = setting(1e-5, range=PROBABILITY, doc="epsilon of the layer norms")
    do_layer_norm_before: bool = setting(
        True, doc="norms before attention and feed-forward layers (pre-norm); else after them"
    )
    pad_token_id: int | None = setting(
        0, range=TOKEN_ID, doc="the token that attention leaves out by default; null for none, as in byte-level models"
    )
    initializer_range: float = setting(0.02, range=SCALE, doc="standard deviation of randomly initialized weights")
    tie_word_embeddings: bool = setting(True, doc="the language-model head shares the token embedding")

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with ``n_ctx`` for absent positions, and the padding id that they mean."""
        adapted = {name: value for name, value in values.items() if name != "n_ctx"}
        if values.get("n_positions") is None:
            adapted["n_positions"] = values.get("n_ctx")
        return adapted | {"pad_token_id": _padding(values)}

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """The values with the padding id of the vocabulary, if there is one."""
        size = Fields(values, str(folder / "config.json")).integer("vocab_size", 0)
        found = None if "pad_token_id" in settled else vocabulary_padding(folder, size)
        completed = with_end_tokens(values, folder)
        if found is None:
            return completed
        stated = _padding(values)
        return completed if found.id == stated else found.instead_of(stated, completed, folder)

    def in_layout(self, layout: str) -> dict[str, Any]:
        """The content of a config.json for a layout; llama.cpp's converter reads the positions by their former name."""
        values = super().in_layout(layout)
        return values | {"n_ctx": self.n_positions} if layout == "huggingface" else values

    def check(self) -> None:
        """Refuse values that are impossible, or contradict each other."""
        self.require(self.n_embd % self.n_head == 0, f"n_embd {self.n_embd} is not a multiple of {self.n_head} heads")


def _padding(values: Mapping[str, Any]) -> int | None:
    """The padding id that a configuration means.

    Files of Chinese models that Hugging Face saved name ``bos_token_id`` 50256, the default, beyond their vocabulary.
    A padding id that also ends texts does not tell padding from text.
    """
    stated = Fields(values, GPT2Config.__name__)
    pad, size = stated.integer("pad_token_id", None), stated.integer("vocab_size", 0)
    ends = [number for name in ("bos_token_id", "eos_token_id") for number in token_ids(stated, name)]
    if pad is not None and pad < size:
        return None if pad and pad in ends else pad
    odd = [number for number in (pad, *ends) if number is not None and number >= size]
    if odd:
        logger.warning(
            "config.json names token ids %s beyond its vocab_size %s: they do not count, and padding is id 0.",
            odd,
            size,
        )
        return 0
    return None if ends or "pad_token_id" in values else 0
