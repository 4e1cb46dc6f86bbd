"""ChatGLM2, ChatGLM3, CodeGeeX2, GLM-4 and GLM-4-0414, in the original format and in transformers'.

Source: Zeng et al. 2024, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools"; behaviour
checked against modeling_chatglm.py of each generation, which is never run here, and transformers' glm and glm4.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.checkpoint.names import NameMap
from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, PreNormBlock, SandwichBlock
from flagai.model.chatglm2_config import ChatGLM2Config
from flagai.model.inputs import Output, checked_ids, decoder_mask, gather_positions, non_padding, result
from flagai.model.layer import Attention, Embeddings, GatedFeedForward, KVCache, Linear, RMSNorm, Rotary
from flagai.model.layer.loss import classification_loss, next_token_loss
from flagai.model.layer.mask import prepare_mask
from flagai.model.layer.prefix_encoder import PrefixEncoder
from flagai.model.meta_init import build_layers
from flagai.model.prefix_tuning import PrefixTunedModel
from flagai.model.weights import chatglm2

__all__ = ["ChatGLM2Config", "ChatGLM2ForSequenceClassification", "ChatGLM2Model"]


class ChatGLM2Model(PrefixTunedModel):
    """The second to fourth generation with its language-model head.

    Args:
        config: the configuration.
        head: False leaves the head out, for classifiers; ``logits`` are hidden states then.
    """

    config_class = ChatGLM2Config
    names = chatglm2.NAMES
    plan = chatglm2.PLAN
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "transformer.", "huggingface": "model."}
    architecture = "GlmForCausalLM"

    def __init__(self, config: ChatGLM2Config, *, head: bool = True) -> None:
        super().__init__(config)
        self.names = names_of(config)
        self.embed = Embeddings(config.vocab_size, config.hidden_size)
        self.rotary = Rotary(
            config.rotary_features, theta=config.rope_theta, neighbours=True, interpolation=config.rope_interpolation
        )
        self.blocks = BlockStack(
            build_layers(lambda: _block(config), config.num_hidden_layers),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False) if head else None
        if self.head is not None and config.tie_word_embeddings:
            self.head.weight = self.embed.token.weight
        hidden = config.hidden_size if config.prefix_projection else None
        self.prefix = self.new_prefix(config.pre_seq_len, hidden) if config.pre_seq_len else None

    def new_prefix(self, length: int, hidden: int | None) -> PrefixEncoder:
        """A prefix encoder of P-Tuning v2 for ``length`` tokens, through ``hidden`` features if that is a number."""
        config: ChatGLM2Config = self.config
        groups, size = config.num_key_value_heads, config.head_dim
        width = 2 * config.num_hidden_layers * groups * size
        return PrefixEncoder(length, config.num_hidden_layers, groups, size, width=width, hidden=hidden)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model.

        Args:
            capacity: how many positions to make room for.
        """
        return KVCache(self.config.num_hidden_layers, capacity)

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
            position_ids: [B, S]; default running, from 0 at the first token that is not padding.
            attention_mask: [B, S] or, with a cache, [B, past + S], 1 at tokens that are not padding (default: all; the
                cache remembers them); or a matrix, [B, S, K] or [B, 1, S, K], joined with the causal mask.
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
        cache = self.new_cache() if cache is None and use_cache else cache
        count = input_ids.shape[1]
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        hidden = self.norm(self._states(input_ids, position_ids, attention_mask, cache, states))[:, -count:]
        states_at = gather_positions(hidden, logits_at)
        logits = states_at if self.head is None else self.head(states_at)
        loss = None if labels is None else next_token_loss(logits, labels)
        states = None if states is None else [state[:, -count:] for state in states]
        return result(logits, hidden, loss=loss, cache=cache, all_hidden_states=states)

    def _states(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        cache: KVCache | None,
        states: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        """The output of the blocks; behind placeholders, if the call has put them in front."""
        if self.prefix is not None:
            ids, attention_mask = self.with_placeholders(ids, attention_mask, cache)
            positions = self.with_places(positions, cache)
        past, count = 0 if cache is None else cache.length, ids.shape[1]
        attn_mask = None if cache is None else cache.attn_mask
        if attn_mask is None:
            valid = non_padding(ids, attention_mask, None, past)
            seen = valid if cache is None else cache.valid(valid, count)
            mask = decoder_mask(seen, attention_mask, cache, count)
            attn_mask = prepare_mask(mask, count, past + count, ids.device)
            if positions is None and seen is not None:
                positions = (seen.long().cumsum(1) - 1).clamp(min=0)[:, -count:]
        if positions is None:
            positions = torch.arange(past, past + count, device=ids.device)[None]
        rotation = self.rotary((positions - self.prefix_length).clamp(min=0) if self.prefix else positions)
        reading = self.reading(cache, positions)
        hidden: torch.Tensor = self.blocks(self.embed(ids), attn_mask, cache=reading, states=states, rotation=rotation)
        return hidden


class ChatGLM2ForSequenceClassification(BaseModel):
    """Classifies a text by the state of its last token.

    Args:
        config: the configuration, with ``class_num``.
    """

    config_class = ChatGLM2Config
    names = chatglm2.NAMES
    plan = chatglm2.PLAN
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "transformer.", "huggingface": "model."}
    architecture = "GlmForSequenceClassification"
    fresh = ("classifier.*",)
    optional = ("model.prefix",)
    needs_classes: ClassVar[bool] = True

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__(config)
        config.require(config.class_num is not None, f"{type(self).__name__} needs class_num=<number of classes>")
        self.names = names_of(config)
        self.model = ChatGLM2Model(config, head=False)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.class_num or 1, bias=config.classifier_bias)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Classify.

        Args:
            input_ids: [B, S]
            attention_mask: 1 at tokens that are not padding, [B, S]; default all.
            labels: [B]
            **others: see :meth:`ChatGLM2Model.forward`.

        Returns:
            ``logits`` [B, classes]; ``hidden_states``; ``loss`` with ``labels``.
        """
        ids = checked_ids(input_ids)
        last = torch.full_like(ids[:, :1], ids.shape[1] - 1)
        output: Output = self.model(ids, attention_mask=attention_mask, logits_at=last, **others)
        if attention_mask is not None and attention_mask.dim() == 2:
            places = torch.arange(ids.shape[1], device=ids.device)
            last = (places * attention_mask[:, -ids.shape[1] :].bool()).argmax(1, keepdim=True)
        state = gather_positions(output["hidden_states"], last)[:, 0]
        output["logits"] = self.classifier(self.dropout(state))
        if labels is not None:
            output["loss"] = classification_loss(output["logits"], labels, None)
        return output


def names_of(config: ChatGLM2Config) -> NameMap:
    """Where the files keep the parameters of a model of this configuration."""
    by_head = not config.multi_query_attention
    return chatglm2.names(config.num_attention_heads, config.num_key_value_heads, config.head_dim, by_head)


def _block(config: ChatGLM2Config) -> nn.Module:
    width, eps = config.hidden_size, config.rms_norm_eps
    attention = Attention(
        width,
        config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        bias=config.attention_bias,
        out_bias=False,
        dropout=config.attention_dropout,
    )
    feed_forward = GatedFeedForward(width, config.intermediate_size, "silu", bias=False)
    norms = [RMSNorm(width, eps) for _ in range(4 if config.sandwich_norm else 2)]
    if config.sandwich_norm:
        return SandwichBlock(norms[0], attention, norms[1], norms[2], feed_forward, norms[3])
    return PreNormBlock(norms[0], attention, norms[1], feed_forward, dropout=config.hidden_dropout)
