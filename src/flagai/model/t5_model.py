"""T5 (v1.0, v1.1) and mT5: the model.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, T5Block
from flagai.model.inputs import (
    Output,
    as_bool_mask,
    checked_ids,
    decoder_mask,
    non_padding,
    packed_row,
    padding_and_matrix,
    result,
)
from flagai.model.layer import AttentionMask, Embeddings, KVCache, Linear, Mask, Packed, RelativeBias, RMSNorm
from flagai.model.layer.loss import cross_entropy
from flagai.model.layer.mask import prepare_mask
from flagai.model.layer.packed_row import Lengths
from flagai.model.meta_init import build_layers
from flagai.model.t5_config import T5Config
from flagai.model.weights import t5

__all__ = ["T5Config", "T5Model", "T5Stack"]


class T5Stack(nn.Module):
    """The encoder or the decoder: one table of relative positions for all blocks, the blocks, a final norm.

    Args:
        config: the configuration.
        decoder: causal, with attention to the encoder's output.
    """

    def __init__(self, config: T5Config, *, decoder: bool) -> None:
        super().__init__()
        layers = config.num_decoder_layers if decoder and config.num_decoder_layers else config.num_layers
        self.bias = RelativeBias(
            config.num_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            bidirectional=not decoder,
        )
        self.blocks = BlockStack(
            build_layers(
                lambda: T5Block(
                    config.d_model,
                    config.num_heads,
                    config.d_kv,
                    config.d_ff,
                    activation=config.activation,
                    gated=config.gated,
                    decoder=decoder,
                    eps=config.layer_norm_epsilon,
                    dropout=config.dropout_rate,
                ),
                layers,
            ),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        embedded: torch.Tensor,
        mask: Mask | None,
        *,
        cache: KVCache | None = None,
        states: list[torch.Tensor] | None = None,
        positions: torch.Tensor | None = None,
        **cross: Any,
    ) -> torch.Tensor:
        """The hidden states [B, S, width] that the blocks make of embedded tokens [B, S, width].

        Args:
            embedded: the embeddings of the tokens.
            mask: what each token attends to.
            cache: keys and values of earlier tokens.
            states: if given, the embeddings and every block's output are appended.
            positions: of the tokens, [B or 1, S].
            **cross: see :class:`BlockStack`.
        """
        count = embedded.shape[1]
        keys = count if cache is None else cache.length + count
        if cache is not None and cache.attn_mask is not None:
            attn_mask = replace(cache.attn_mask, tensor=self.bias.by_distance())
            hidden = self.blocks(embedded, attn_mask, cache=cache, states=states, **cross)
            return self.dropout(self.norm(hidden))
        if isinstance(mask, Packed):
            # Scores depend on distances only: those of the longest packed text hold for all of them.
            bias = self.bias(mask.row.max_seqlen, mask.row.max_seqlen)
        elif positions is None:
            bias = self.bias(count, keys)
        else:
            bias = self.bias.between(positions, positions if cache is None else cache.positions(positions))
        attn_mask = prepare_mask(mask, count, keys, embedded.device, bias=bias)
        hidden = self.blocks(embedded, attn_mask, cache=cache, states=states, **cross)
        return self.dropout(self.norm(hidden))


class T5Model(BaseModel):
    """T5 with its language-model head.

    A head that shares the token embeddings (v1.0) reads states scaled by ``d_model ** -0.5``.
    """

    config_class = T5Config
    names = t5.NAMES
    plan = t5.PLAN
    architecture = "T5ForConditionalGeneration"

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.embed = Embeddings(config.vocab_size, config.d_model, dropout=config.dropout_rate)
        self.encoder = T5Stack(config, decoder=False)
        self.decoder = T5Stack(config, decoder=True)
        self.head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embed.token.weight

    def init_std(self, name: str) -> float:
        """The standard deviation of a parameter by its name: T5's scheme, which belongs to its unscaled attention."""
        config: T5Config = self.config
        width, inner = config.d_model, config.num_heads * config.d_kv
        scale = {
            "attention.q.weight": (width * config.d_kv) ** -0.5,
            "attention.out.weight": inner**-0.5,
            "feed_forward.down.weight": config.d_ff**-0.5,
            "embed.token.weight": 1.0,
            "head.weight": 1.0,
        }
        std = next((std for ending, std in scale.items() if name.endswith(ending)), width**-0.5)
        return config.initializer_factor * std

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model.

        Args:
            capacity: how many positions to make room for.
        """
        return KVCache(self.config.num_decoder_layers or self.config.num_layers, capacity)

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
    ) -> torch.Tensor:
        """The encoder's last hidden states, [B, K, width].

        Args:
            input_ids: [B, K]
            attention_mask: 1 at non-padding tokens, [B, K]; default all, padding included, as in the original.
            states: if given, the embeddings and every block's output are appended.
            lengths: number of tokens of each text, [N], if the texts stand one after the other in one row [1, T].
                For the decoder, give each a row again: ``PackedRow.of(lengths).pad(hidden)``.
        """
        input_ids = checked_ids(input_ids)
        row = packed_row(input_ids, lengths, attention_mask=attention_mask)
        valid = non_padding(input_ids, attention_mask, None)
        mask = padding_and_matrix(valid, attention_mask, None, input_ids.shape[1]) if row is None else Packed(row)
        hidden: torch.Tensor = self.encoder(self.embed(input_ids), mask, states=states)
        return hidden

    def cache_memory(self, memory: torch.Tensor, cache: KVCache) -> None:
        """Keep the keys and values of an encoder's output, ``memory`` [1, T, width], in the cache."""
        for index, block in enumerate(self.decoder.blocks):
            attention: Any = block.cross_attention
            cache.append(index, *attention.project(memory))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        encoder_outputs: torch.Tensor | Sequence[torch.Tensor] | None = None,
        cache: KVCache | None = None,
        past_key_values: KVCache | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        **redundant: Any,
    ) -> Output:
        """Score the next token of the decoder's text at every position.

        Args:
            input_ids: the encoder's text, [B, K].
            attention_mask: 1 at non-padding tokens of the encoder's text, [B, K]; default all.
            decoder_input_ids: the decoder's text so far, [B, S]; with a cache, its new tokens.
            decoder_attention_mask: 1 at the decoder's non-padding tokens, [B, past + S]; or a matrix, [B, S, K] or
                [B, 1, S, K], joined with the causal mask.
            labels: the token that each position predicts, -100 for none, [B, S]. Without
                ``decoder_input_ids``, they are the labels shifted to the right.
            encoder_outputs: what an earlier call returned as ``encoder_last_hidden_state`` (or a sequence that
                begins with it), [B, K, width], in place of ``input_ids``.
            cache: keys and values of earlier tokens and of the encoder's text; extended in place.
            past_key_values: another name of ``cache``.
            decoder_position_ids: where the decoder's tokens stand, [B or 1, S]; default in running order. With a
                cache: in every call or in none.
            use_cache: start a cache and return it.
            output_hidden_states: also return ``all_hidden_states`` and ``encoder_all_hidden_states``.
            **redundant: ignored.

        Returns:
            ``logits`` [B, S, V]; ``hidden_states`` [B, S, width], the decoder's after its last norm;
            ``encoder_last_hidden_state`` [B, K, width]; ``loss`` with ``labels``; ``cache`` if one is in use;
            ``all_hidden_states``, the decoder's embeddings and every block's output.

        Raises:
            InputError: a text is missing, or an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = self.shift_right(labels)
        decoder_input_ids = checked_ids(decoder_input_ids, name="decoder_input_ids")
        cache = past_key_values if cache is None else cache
        if cache is None and use_cache:
            cache = self.new_cache()
        encoder_states: list[torch.Tensor] | None = [] if output_hidden_states else None
        decoder_states: list[torch.Tensor] | None = [] if output_hidden_states else None
        memory = self._memory(input_ids, attention_mask, encoder_outputs, cache, encoder_states)
        past = 0 if cache is None else cache.length
        valid = non_padding(decoder_input_ids, decoder_attention_mask, None, past)
        count = decoder_input_ids.shape[1]
        hidden = self.decoder(
            self.embed(decoder_input_ids),
            decoder_mask(valid, decoder_attention_mask, cache, count),
            cache=cache,
            states=decoder_states,
            positions=decoder_position_ids,
            memory=memory,
            memory_attn_mask=self._memory_visibility(attention_mask, cache, count),
        )
        logits = self._logits(hidden)
        return result(
            logits,
            hidden,
            encoder_last_hidden_state=memory,
            loss=None if labels is None else cross_entropy(logits, labels),
            cache=cache,
            all_hidden_states=decoder_states,
            encoder_all_hidden_states=encoder_states,
        )

    def shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        """The decoder's input for these labels: the start token in front, the last one dropped, [B, S]."""
        shifted = torch.cat([torch.full_like(labels[:, :1], self.config.start_token), labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    def _memory(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        encoder_outputs: torch.Tensor | Sequence[torch.Tensor] | None,
        cache: KVCache | None,
        states: list[torch.Tensor] | None,
    ) -> torch.Tensor | None:
        """The encoder's output; None if the cache already has what the decoder needs of it."""
        if encoder_outputs is not None:
            return encoder_outputs if isinstance(encoder_outputs, torch.Tensor) else encoder_outputs[0]
        if cache is not None and (cache.length or cache.cross_mask is not None):
            return None
        if input_ids is None:
            raise InputError("T5 needs input_ids or encoder_outputs.")
        return self.encode(input_ids, attention_mask, states)

    @staticmethod
    def _memory_visibility(attention_mask: torch.Tensor | None, cache: KVCache | None, count: int) -> AttentionMask:
        if cache is not None and cache.cross_mask is not None:
            return cache.cross_mask
        if attention_mask is None and cache is not None:
            attention_mask = cache.memory_mask
        if attention_mask is None:
            return AttentionMask()
        if cache is not None:
            cache.memory_mask = attention_mask
        mask = padding_and_matrix(as_bool_mask(attention_mask), None, None, count)
        return prepare_mask(mask, count, attention_mask.shape[1], attention_mask.device)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.config.scaled_head:
            hidden = hidden * self.config.d_model**-0.5
        logits: torch.Tensor = self.head(hidden)
        return logits
