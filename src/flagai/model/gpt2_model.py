"""GPT-2: configuration and model.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, GPT2Block, PostNormBlock
from flagai.model.config import ModelConfig
from flagai.model.config_values import Heads, Layers, Rate, Scale, Size, TokenId, Vocabulary
from flagai.model.generation_defaults import token_ids, with_end_tokens
from flagai.model.inputs import Output, checked_ids, decoder_mask, picked, real_tokens, result
from flagai.model.layer import Attention, Embeddings, FeedForward, KVCache, LayerNorm, Linear
from flagai.model.layer.loss import next_token_loss
from flagai.model.layer.mask import prepare_mask
from flagai.model.meta_init import build_layers
from flagai.model.padding_id import vocabulary_padding
from flagai.model.weights import gpt2
from flagai.typed_json import Fields

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class GPT2Config(ModelConfig):
    """GPT-2's configuration, under the key names of Hugging Face's files, which FlagAI shares.

    ``pad_token_id`` is the token that nobody sees unless an attention mask says otherwise: 0 in FlagAI's Chinese
    models, none in byte-level ones (whose files name a ``bos_token_id`` and no padding).
    """

    family: ClassVar[str] = "gpt2"
    model_types: ClassVar[tuple[str, ...]] = ("gpt2",)
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
    }
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "n_embd", "n_layer", "n_head")
    fixed: ClassVar[Mapping[str, Any]] = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }

    vocab_size: Vocabulary
    n_embd: Size
    n_layer: Layers
    n_head: Heads
    n_positions: Size = 1024
    n_inner: Size | None = None
    activation_function: str = "gelu_new"
    attn_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    resid_pdrop: Rate = 0.1
    layer_norm_epsilon: Rate = 1e-5
    do_layer_norm_before: bool = True
    pad_token_id: TokenId | None = 0
    initializer_range: Scale = 0.02
    tie_word_embeddings: bool = True

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the base class."""
        adapted = dict(values)
        if values.get("n_positions") is None:
            adapted["n_positions"] = values.get("n_ctx")
        return adapted | {"pad_token_id": _padding(values)}

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """See the base class: the padding id is that of the vocabulary, if there is one."""
        size = Fields(values, str(folder / "config.json")).integer("vocab_size", 0)
        found = None if "pad_token_id" in settled else vocabulary_padding(folder, size)
        completed = with_end_tokens(values, folder)
        if found is None:
            return completed
        stated = _padding(values)
        return completed if found.id == stated else found.instead_of(stated, completed, folder)

    def check(self) -> None:
        """See the base class."""
        self.require(
            self.n_head > 0 and self.n_embd % self.n_head == 0,
            f"n_embd {self.n_embd} is no multiple of {self.n_head} heads",
        )


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


class GPT2Model(BaseModel):
    """GPT-2 with its language-model head, which shares the token embeddings unless the configuration unties it.

    Args:
        config: the configuration.
    """

    config_class = GPT2Config
    names = gpt2.NAMES
    plan = gpt2.PLAN
    architecture = "GPT2LMHeadModel"
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "transformer.", "huggingface": "transformer."}

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.embed = Embeddings(
            config.vocab_size, config.n_embd, positions=config.n_positions, dropout=config.embd_pdrop
        )
        self.blocks = BlockStack(
            build_layers(lambda: _block(config), config.n_layer), checkpoint_activations=config.checkpoint_activations
        )
        self.norm = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.head = None if config.tie_word_embeddings else Linear(config.n_embd, config.vocab_size, bias=False)

    def init_std(self, name: str) -> float:
        """See the base class; layers that write into the residual stream start smaller the deeper the model is."""
        std: float = self.config.initializer_range
        writes = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        return std / (2 * self.config.n_layer) ** 0.5 if writes else std

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model.

        Args:
            capacity: how many positions to make room for.
        """
        return KVCache(self.config.n_layer, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        cache: KVCache | None = None,
        past_key_values: KVCache | None = None,
        use_cache: bool = False,
        logits_at: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        **redundant: Any,
    ) -> Output:
        """Score the next token at every position.

        Args:
            input_ids: token ids, [B, S].
            position_ids: [B, S]; default running, padding counted.
            attention_mask: [B, S] or, with a cache, [B, past + S], 1 at real tokens (default: all that are not
                padding; the cache remembers them); or a matrix, [B, S, K] or [B, 1, S, K], joined with the causal
                mask.
            labels: the tokens themselves; each position is judged by the next one's, -100 for none, [B, S].
            cache: keys and values of earlier tokens; extended in place.
            past_key_values: another name of ``cache``.
            use_cache: start a cache and return it.
            logits_at: the positions whose logits are wanted, [B, N]; default all. A long prompt needs only its last.
            output_hidden_states: also return ``all_hidden_states``.
            **redundant: ignored.

        Returns:
            ``logits`` [B, S or N, V]; ``hidden_states`` [B, S, width] after the last norm; ``loss`` with ``labels``;
            ``cache`` if one is in use; ``all_hidden_states``, the embeddings and every block's output.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        cache = past_key_values if cache is None else cache
        if cache is None and use_cache:
            cache = self.new_cache()
        past, count = 0 if cache is None else cache.length, input_ids.shape[1]
        valid = real_tokens(input_ids, attention_mask, self.config.pad_token_id, past)
        mask = decoder_mask(valid, attention_mask, cache, count)
        if position_ids is None:
            position_ids = torch.arange(past, past + count, device=input_ids.device)[None]
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        seen = prepare_mask(mask, count, past + count, input_ids.device)
        embed = self.embed if cache is None else cache.embeddings(self.embed)
        embedded = embed(input_ids, position_ids=position_ids)
        hidden = self.norm(self.blocks(embedded, seen, cache=cache, states=states))
        logits = self._logits(picked(hidden, logits_at))
        loss = None if labels is None else next_token_loss(logits, labels)
        return result(logits, hidden, loss=loss, cache=cache, all_hidden_states=states)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.embed.token.score(hidden) if self.head is None else self.head(hidden)


def _block(config: GPT2Config) -> nn.Module:
    inner = config.n_inner or 4 * config.n_embd
    if config.do_layer_norm_before:
        return GPT2Block(
            config.n_embd,
            config.n_head,
            inner,
            activation=config.activation_function,
            eps=config.layer_norm_epsilon,
            dropout=config.resid_pdrop,
            attention_dropout=config.attn_pdrop,
        )
    return PostNormBlock(
        Attention(config.n_embd, config.n_head, dropout=config.attn_pdrop),
        LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
        FeedForward(config.n_embd, inner, config.activation_function),
        LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
        dropout=config.resid_pdrop,
    )
