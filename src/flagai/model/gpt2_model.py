"""GPT-2: the model.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, GPT2Block, PostNormBlock
from flagai.model.gpt2_config import GPT2Config
from flagai.model.inputs import Output, checked_ids, decoder_mask, gather_positions, non_padding, result
from flagai.model.layer import Attention, Embeddings, FeedForward, KVCache, LayerNorm, Linear
from flagai.model.layer.loss import next_token_loss
from flagai.model.layer.mask import prepare_mask
from flagai.model.meta_init import build_layers
from flagai.model.weights import gpt2


class GPT2Model(BaseModel):
    """GPT-2 with its language-model head, which shares the token embeddings unless the configuration unties it."""

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
        """The standard deviation of a parameter by its name; less for layers that write into the residual stream."""
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
            attention_mask: [B, S] or, with a cache, [B, past + S], 1 at non-padding tokens (default: all that are not
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
        if position_ids is None:
            position_ids = torch.arange(past, past + count, device=input_ids.device)[None]
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        attn_mask = None if cache is None else cache.attn_mask
        if attn_mask is None:
            valid = non_padding(input_ids, attention_mask, self.config.pad_token_id, past)
            mask = decoder_mask(valid, attention_mask, cache, count)
            attn_mask = prepare_mask(mask, count, past + count, input_ids.device)
        embedded = self.embed(input_ids, position_ids=position_ids)
        hidden = self.norm(self.blocks(embedded, attn_mask, cache=cache, states=states))
        logits = self._logits(gather_positions(hidden, logits_at))
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
