"""ChatGLM-6B and GLM-130B; the later generations are in :mod:`flagai.model.chatglm2_model` and named here, too.

Both fill the blank at the end of a text as GLM does, with rotary positions in place of tables.

Source: Zeng et al. 2022, "GLM-130B: An Open Bilingual Pre-trained Model"; behaviour checked against
modeling_chatglm.py, which is never run here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.block import BlockStack, DeepNormBlock
from flagai.model.chatglm2_model import ChatGLM2Config, ChatGLM2ForSequenceClassification, ChatGLM2Model
from flagai.model.chatglm_config import ChatGLMConfig
from flagai.model.chatglm_spans import continued, read_spans
from flagai.model.inputs import Output, checked_ids, gather_positions, non_padding, padding_and_matrix, result
from flagai.model.layer import (
    Attention,
    AttentionMask,
    Causal,
    Embeddings,
    FeedForward,
    GatedFeedForward,
    KVCache,
    LayerNorm,
    Linear,
    Mask,
    Prefix,
    Rotary,
    prepare_mask,
)
from flagai.model.layer.loss import next_token_loss
from flagai.model.layer.prefix_encoder import PrefixEncoder
from flagai.model.meta_init import build_layers
from flagai.model.prefix_tuning import PrefixTunedModel
from flagai.model.weights import chatglm

__all__ = [
    "ChatGLM2Config",
    "ChatGLM2ForSequenceClassification",
    "ChatGLM2Model",
    "ChatGLMConfig",
    "ChatGLMModel",
]


class ChatGLMModel(PrefixTunedModel):
    """ChatGLM-6B, or GLM-130B, with its language-model head."""

    config_class = ChatGLMConfig
    names = chatglm.NAMES
    plan = chatglm.PLAN
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "transformer.", "huggingface": "transformer."}
    architecture = "ChatGLMModel"

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.names = chatglm.names(config.head_dim, config.gated)
        self.embed = Embeddings(config.vocab_size, config.hidden_size)
        parts = 2 if config.position_encoding_2d else 1
        self.rotary = Rotary(config.head_dim, parts=parts, rounded=config.half_frequencies)
        self.blocks = BlockStack(
            build_layers(lambda: _block(config), config.num_layers),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.norm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embed.token.weight
        hidden = config.hidden_size if config.prefix_projection else None
        self.prefix = self.new_prefix(config.pre_seq_len, hidden) if config.pre_seq_len else None

    def new_prefix(self, length: int, hidden: int | None) -> PrefixEncoder:
        """A prefix encoder of P-Tuning v2 for ``length`` tokens, through ``hidden`` features if that is a number."""
        config: ChatGLMConfig = self.config
        heads = config.num_attention_heads
        return PrefixEncoder(length, config.num_layers, heads, config.head_dim, width=config.hidden_size, hidden=hidden)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model.

        Args:
            capacity: how many positions to make room for.
        """
        return KVCache(self.config.num_layers, capacity)

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

        All tokens before the first <sop> attend to each other, the rest is causal.

        Args:
            input_ids: token ids, [B, S].
            position_ids: [B, 2, S], the position and the position inside the answer; [B, S] for models without the
                latter. Default: as [gMASK], [MASK] and <sop> say; behind cached tokens, further ones of the answer.
            attention_mask: [B, S] or, with a cache, [B, past + S], 1 at tokens that are not padding (default: all that
                are not the padding token); or a matrix, [B, S, K] or [B, 1, S, K], 1 where a token attends to another,
                which stands for everything. The original's matrices are 1 where it does not: pass ``~mask``.
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
        logits = self.head(gather_positions(hidden, logits_at))
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
        text = ids
        if self.prefix is not None:
            ids, attention_mask = self.with_placeholders(ids, attention_mask, cache)
            positions = self.with_places(positions, cache)
        positions = None if positions is None else self._checked(positions)
        attn_mask = None if cache is None else cache.attn_mask
        if attn_mask is None:
            attn_mask, positions = self._read(text, ids, positions, attention_mask, cache)
        if positions is None:
            raise InputError("The cache says what tokens attend to, so position_ids must say where they stand.")
        places, blocks = positions.unbind(1)
        real = (places - self.prefix_length).clamp(min=0) if self.prefix else places
        rotation = self.rotary(*((real, blocks) if self.config.position_encoding_2d else (real,)))
        reading = self.reading(cache, places)
        hidden: torch.Tensor = self.blocks(self.embed(ids), attn_mask, cache=reading, states=states, rotation=rotation)
        return hidden

    def _checked(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions as [B or 1, 2, S]."""
        blocked = self.config.position_encoding_2d
        if positions.dim() == 2 and not blocked:
            return torch.stack([positions, torch.zeros_like(positions)], dim=1)
        if positions.dim() != 3 or positions.shape[1] != 2:
            expected = "[B, 2, S]" if blocked else "[B, S]"
            raise InputError(f"position_ids have shape {list(positions.shape)}, this model expects {expected}.")
        return positions

    def _read(
        self,
        text: torch.Tensor,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        cache: KVCache | None,
    ) -> tuple[AttentionMask, torch.Tensor]:
        """What tokens attend to and where they stand, as the tokens of the text and the cache say."""
        past, count, added = 0 if cache is None else cache.length, ids.shape[1], ids.shape[1] - text.shape[1]
        valid = non_padding(ids, attention_mask, self.config.pad_token_id, past)
        if added and valid is not None:
            valid = torch.cat([torch.ones_like(valid[:, :added]), valid[:, added:]], dim=1)
        seen = valid if cache is None else cache.valid(valid, count)
        spans = None if past else read_spans(text, None if seen is None else seen[:, added:], self.config, added)
        if positions is None:
            positions = spans.positions if spans is not None else continued(cache, seen, count, self.config)
        if cache is not None:
            cache.positions(positions.transpose(1, 2))
        mask: Mask = Causal() if spans is None else Prefix(spans.context)
        other = padding_and_matrix(seen, attention_mask, cache, count)
        if attention_mask is not None and attention_mask.dim() > 2:
            _check_matrix(attention_mask)
            mask, other = other or mask, None
        mask = mask if other is None else mask & other
        return prepare_mask(mask, count, past + count, ids.device), positions


def _check_matrix(matrix: torch.Tensor) -> None:
    """Refuse the original's masks, which are true where a token is hidden."""
    if matrix.device.type == "cpu" and matrix.shape[-1] == matrix.shape[-2] and not matrix.diagonal(0, -2, -1).any():
        raise InputError(
            "attention_mask hides every token from itself. It is 1 where a token attends to another; the original's "
            "masks are true where it does not: pass ~attention_mask."
        )


def _block(config: ChatGLMConfig) -> nn.Module:
    width, eps, inner = config.hidden_size, config.layernorm_epsilon, config.inner_hidden_size
    attention = Attention(width, config.num_attention_heads)
    gated = config.gated
    feed_forward = GatedFeedForward(width, inner, "gelu") if gated else FeedForward(width, inner, "gelu_new")
    norms = LayerNorm(width, eps=eps), LayerNorm(width, eps=eps)
    return DeepNormBlock(norms[0], attention, norms[1], feed_forward, scale=(2 * config.num_layers) ** 0.5)
