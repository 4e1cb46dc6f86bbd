"""BERT, and RoBERTa-base-ch, which is a BERT: the backbone; heads: :mod:`flagai.model.bert_model`.

Source: Devlin et al. 2019, "BERT".
"""

from collections.abc import Iterable
from typing import Any

import torch

from flagai.model.base_model import BaseModel
from flagai.model.bert_config import BertConfig, check_prefix
from flagai.model.block import BertBlock, BlockStack
from flagai.model.inputs import Output, checked_ids, join, non_padding, packed_row, padding_and_matrix, result
from flagai.model.layer import Embeddings, KVCache, Mask, Packed, PackedRow, Pooler
from flagai.model.layer.mask import prepare_mask
from flagai.model.layer.packed_row import Lengths
from flagai.model.meta_init import build_layers
from flagai.model.weights import bert


class BertModel(BaseModel):
    """BERT's backbone."""

    config_class = BertConfig
    names = bert.NAMES
    plan = bert.PLAN
    architecture = "BertModel"
    optional = ("pooler",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.embed = Embeddings(
            config.vocab_size,
            config.hidden_size,
            positions=config.max_position_embeddings,
            segments=config.type_vocab_size,
            norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.blocks = BlockStack(
            build_layers(
                lambda: BertBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.intermediate_size or 4 * config.hidden_size,
                    activation=config.hidden_act,
                    eps=config.layer_norm_eps,
                    dropout=config.hidden_dropout_prob,
                    attention_dropout=config.attention_probs_dropout_prob,
                ),
                config.num_hidden_layers,
            ),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.pooler: Pooler | None = Pooler(config.hidden_size)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse a RoBERTa's weights under a BERT's configuration."""
        check_prefix(names, self.config)

    @property
    def max_positions(self) -> int:
        """The number of tokens that have positions; RoBERTa's begin behind its padding id."""
        limit: int = self.config.longest_text
        return limit

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache, for decoding with :class:`BertForSeq2seq`."""
        return KVCache(self.config.num_hidden_layers, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        cache: KVCache | None = None,
        causal: Mask | None = None,
        **redundant: Any,
    ) -> Output:
        """Encode.

        Args:
            input_ids: token ids, [B, S].
            token_type_ids: which of two sentences a token belongs to, [B, S]; default 0.
            attention_mask: [B, S], 1 at non-padding tokens (default: all but padding); or a matrix [B, S, S] or
                [B, 1, S, S] saying which non-padding token attends to which.
            lengths: number of tokens of each text, [N], if the texts stand one after the other in one row [1, T],
                without padding; each sequence attends to itself only.
            position_ids: [B, S]; default running.
            segment_ids: FlagAI's name of ``token_type_ids``.
            output_hidden_states: also return ``all_hidden_states``.
            cache: keys and values of earlier tokens; extended in place.
            causal: a further mask; used by :class:`BertForSeq2seq`.
            **redundant: ignored.

        Returns:
            ``logits`` and ``hidden_states``, both [B, S, width]; ``pooled`` [B, width] ([N, width] of packed texts),
            unless the checkpoint had no pooler; ``all_hidden_states`` (embeddings and every block's output);
            ``cache`` if one is in use.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        past, count = 0 if cache is None else cache.length, input_ids.shape[1]
        segments = segment_ids if token_type_ids is None else token_type_ids
        row = packed_row(input_ids, lengths, attention_mask=attention_mask, cache=cache, causal=causal)
        attn_mask = None if cache is None else cache.attn_mask
        if row is not None:
            row.check(self.config.longest_text)
            attn_mask = prepare_mask(Packed(row), count, count, input_ids.device)
        elif attn_mask is None:
            valid = non_padding(input_ids, attention_mask, self.config.pad_token_id, past)
            mask = padding_and_matrix(valid, attention_mask, cache, count)
            mask = mask if causal is None else join(causal, mask)
            attn_mask = prepare_mask(mask, count, past + count, input_ids.device)
        embedded = self.embed(
            input_ids,
            position_ids=self._positions(input_ids, past, row) if position_ids is None else position_ids,
            segment_ids=torch.zeros_like(input_ids) if segments is None else segments,
        )
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        hidden = self.blocks(embedded, attn_mask, cache=cache, states=states)
        first = hidden[:, 0] if row is None else row.first(hidden)
        pooled = None if self.pooler is None else self.pooler(first)
        return result(hidden, hidden, pooled=pooled, cache=cache, all_hidden_states=states)

    def _positions(self, input_ids: torch.Tensor, past: int, row: PackedRow | None) -> torch.Tensor:
        if row is not None:
            return row.positions(input_ids.device) + self.config.position_offset
        if self.config.position_offset:
            non_padding_ids = (input_ids != self.config.pad_token_id).long()
            return non_padding_ids.cumsum(1) * non_padding_ids + self.config.position_offset - 1
        return torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]
