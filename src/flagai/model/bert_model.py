"""BERT, and RoBERTa-base-ch, which is a BERT: configuration, backbone and heads.

Source: Devlin et al. 2019, "BERT"; heads as in FlagAI and transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.model.base_model import BaseModel
from flagai.model.block import BertBlock, BlockStack
from flagai.model.config import ModelConfig
from flagai.model.inputs import checked_ids, join, padding_and_matrix, real_tokens
from flagai.model.layer import CRF, Embeddings, GlobalPointer, KVCache, Mask, MaskLMHead, Pooler, Prefix
from flagai.model.layer.loss import cross_entropy, masked_cross_entropy, span_loss
from flagai.model.layer.mask import visibility
from flagai.model.weights import bert

Output = dict[str, Any]
# FlagAI's norms use this epsilon where its configuration names none; Hugging Face's default is 1e-12.
_FLAGAI_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    """BERT's configuration, under the key names of Google's, Hugging Face's and FlagAI's files.

    ``position_offset`` is 0 for BERT. Real RoBERTa counts real tokens from ``pad_token_id + 1`` on.
    """

    family: ClassVar[str] = "bert"
    model_types: ClassVar[tuple[str, ...]] = ("bert", "roberta")
    aliases: ClassVar[Mapping[str, str]] = {"layernorm_epsilon": "layer_norm_eps", "num_labels": "class_num"}
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_offset: int = 0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    class_num: int | None = None
    inner_dim: int = 64

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the base class."""
        adapted = dict(values)
        if "id2label" in values and "class_num" not in values and "num_labels" not in values:
            adapted["class_num"] = len(values["id2label"])
        if "model_type" not in values and not {"layer_norm_eps", "layernorm_epsilon"} & values.keys():
            adapted["layer_norm_eps"] = _FLAGAI_EPSILON
        if values.get("model_type") == "roberta":
            adapted.setdefault("position_offset", values.get("pad_token_id", 1) + 1)
        return adapted

    def check(self) -> None:
        """See the base class."""
        heads = self.num_attention_heads
        self.require(
            heads > 0 and self.hidden_size % heads == 0, f"hidden_size {self.hidden_size} is no multiple of {heads} heads"
        )


class BertModel(BaseModel):
    """BERT's backbone.

    Args:
        config: the configuration.
        with_pooler: whether to have the pooled first token; only some heads read it.
    """

    config_class = BertConfig
    names = bert.NAMES
    plan = bert.PLAN
    architecture = "BertModel"
    fresh = ("pooler.*",)

    def __init__(self, config: BertConfig, *, with_pooler: bool = True) -> None:
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
            (
                BertBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.intermediate_size or 4 * config.hidden_size,
                    activation=config.hidden_act,
                    eps=config.layer_norm_eps,
                    dropout=config.hidden_dropout_prob,
                    attention_dropout=config.attention_probs_dropout_prob,
                )
                for _ in range(config.num_hidden_layers)
            ),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.pooler = Pooler(config.hidden_size) if with_pooler else None

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache, for decoding with :class:`BertForSeq2seq`."""
        return KVCache(self.config.num_hidden_layers, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
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
            attention_mask: [B, S], 1 at real tokens (default: all that are not padding); or a matrix [B, S, S] or
                [B, 1, S, S] of who sees whom among the real tokens.
            position_ids: [B, S]; default running.
            segment_ids: FlagAI's name of ``token_type_ids``.
            output_hidden_states: also return ``all_hidden_states``.
            cache: keys and values of earlier tokens; extended in place.
            causal: a further mask; used by :class:`BertForSeq2seq`.
            **redundant: ignored.

        Returns:
            ``logits`` and ``hidden_states``, both [B, S, width]; ``pooled`` [B, width], unless the model has no
            pooler; ``all_hidden_states`` (embeddings and every block's output); ``cache`` if one is in use.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        past, count = 0 if cache is None else cache.length, input_ids.shape[1]
        segments = segment_ids if token_type_ids is None else token_type_ids
        valid = real_tokens(input_ids, attention_mask, self.config.pad_token_id)
        mask = padding_and_matrix(valid, attention_mask, cache, count)
        mask = mask if causal is None else join(causal, mask)
        embedded = self.embed(
            input_ids,
            position_ids=self._positions(input_ids, past) if position_ids is None else position_ids,
            segment_ids=torch.zeros_like(input_ids) if segments is None else segments,
        )
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        seen = visibility(mask, count, past + count, input_ids.device)
        hidden = self.blocks(embedded, seen, cache=cache, states=states)
        output: Output = {"logits": hidden, "hidden_states": hidden}
        if self.pooler is not None:
            output["pooled"] = self.pooler(hidden[:, 0])
        if states is not None:
            output["all_hidden_states"] = states
        if cache is not None:
            output["cache"] = cache
        return output

    def _positions(self, input_ids: torch.Tensor, past: int) -> torch.Tensor:
        if self.config.position_offset:
            real = (input_ids != self.config.pad_token_id).long()
            return real.cumsum(1) * real + self.config.position_offset - 1
        return torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]


class _BertHead(BaseModel):
    """A BERT with something on top."""

    config_class = BertConfig
    names = bert.NAMES
    plan = bert.PLAN
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "model.", "huggingface": "bert."}
    needs_classes: ClassVar[bool] = False
    with_pooler: ClassVar[bool] = False

    def __init__(self, config: BertConfig) -> None:
        config.require(
            config.class_num is not None or not self.needs_classes,
            f"{type(self).__name__} needs class_num=<number of classes>",
        )
        super().__init__(config)
        self.model = BertModel(config, with_pooler=self.with_pooler)

    def valid(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Which tokens are real, [B, S]."""
        valid = real_tokens(input_ids, attention_mask, self.config.pad_token_id)
        return torch.ones_like(input_ids, dtype=torch.bool) if valid is None else valid


class BertForEmbedding(_BertHead):
    """BERT whose ``logits`` are the last hidden states, to be averaged to sentence embeddings.

    Args:
        config: the configuration.
    """

    architecture = "BertModel"
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "model."}

    def forward(self, input_ids: torch.Tensor | None = None, **others: Any) -> Output:
        """Encode; arguments and result as :meth:`BertModel.forward`."""
        output: Output = self.model(input_ids, **others)
        return output


class BertForMaskLM(_BertHead):
    """BERT that predicts the tokens behind ``[MASK]``.

    Args:
        config: the configuration.
    """

    architecture = "BertForMaskedLM"
    fresh = ("head.*",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.head = MaskLMHead(
            config.hidden_size,
            config.vocab_size,
            config.hidden_act,
            config.layer_norm_eps,
            self.model.embed.token if config.tie_word_embeddings else None,
        )

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Score every token at every position.

        Args:
            input_ids: [B, S]
            labels: the right token, -100 where none is asked for, [B, S].
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, S, V]; ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        output["logits"] = self.head(output["hidden_states"])
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


class BertForSeq2seq(BertForMaskLM):
    """BERT that writes: the first segment sees itself, the second is causal (UniLM).

    Args:
        config: the configuration.

    Source:
        Dong et al. 2019, "Unified Language Model Pre-training".
    """

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model."""
        return self.model.new_cache(capacity)

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Score the next token at every position.

        Args:
            input_ids: [B, S]
            labels: the next token of every position, ``input_ids[:, 1:]``, [B, S - 1] (or [B, S] with the first
                one in front). Only the second segment's count; 0 adds nothing.
            **others: ``segment_ids`` [B, S], 0 for the text and 1 for what is written; ``cache`` to decode token
                by token; the rest as :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, S, V]; ``hidden_states``; ``loss`` with ``labels``; ``cache`` if one is in use.
        """
        ids = checked_ids(input_ids)
        segments = others.get("token_type_ids")
        segments = others.get("segment_ids") if segments is None else segments
        segments = torch.zeros_like(ids) if segments is None else segments
        text_lengths = (segments.cumsum(1) == 0).sum(1)
        output = super().forward(ids, None, causal=Prefix(text_lengths), **others)
        if labels is not None:
            targets = labels[:, -(ids.shape[1] - 1) :]
            output["loss"] = masked_cross_entropy(output["logits"][:, :-1], targets, segments[:, 1:], ignore_index=0)
        return output


class BertForClsClassifier(_BertHead):
    """BERT that classifies a text or a pair of texts.

    Args:
        config: the configuration, with ``class_num``.
    """

    architecture = "BertForSequenceClassification"
    fresh = ("classifier.*", "model.pooler.*")
    needs_classes = True
    with_pooler = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.class_num or 0)

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Classify.

        Args:
            input_ids: [B, S]
            labels: the class, [B].
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, classes]; ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        output["logits"] = self.classifier(output["pooled"])
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


class BertForSequenceLabeling(_BertHead):
    """BERT that labels every token.

    Args:
        config: the configuration, with ``class_num``.
    """

    architecture = "BertForTokenClassification"
    fresh: ClassVar[tuple[str, ...]] = ("tagger.*",)
    needs_classes = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.tagger = nn.Linear(config.hidden_size, config.class_num or 0)

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Label.

        Args:
            input_ids: [B, S]
            labels: [B, S]; padding and -100 do not count.
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, S, classes]; ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        output["logits"] = self.tagger(output["hidden_states"])
        if labels is not None:
            valid = self.valid(checked_ids(input_ids), others.get("attention_mask"))
            output["loss"] = self.loss(output["logits"], labels, valid)
        return output

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy over the real tokens."""
        return masked_cross_entropy(logits, labels, valid & (labels != -100))


class BertForSequenceLabelingCRF(BertForSequenceLabeling):
    """BERT that labels every token, with scores for the transitions between labels.

    Args:
        config: the configuration, with ``class_num``.
    """

    fresh = ("tagger.*", "crf.*")

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.crf = CRF(config.class_num or 0)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of the rows' labels."""
        return self.crf(logits, labels, valid).mean()


class BertForSequenceLabelingGP(_BertHead):
    """BERT that scores every span for every class (GlobalPointer).

    Args:
        config: the configuration, with ``class_num`` and ``inner_dim``.
    """

    fresh = ("pointer.*",)
    architecture = "BertModel"
    needs_classes = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.pointer = GlobalPointer(config.hidden_size, config.class_num or 0, config.inner_dim)

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Score spans.

        Args:
            input_ids: [B, S]
            labels: 1 at the spans (start, end) of each class, [B, classes, S, S].
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, classes, S, S], above 0 for entities; ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        valid = self.valid(checked_ids(input_ids), others.get("attention_mask"))
        output["logits"] = self.pointer(output["hidden_states"], valid)
        if labels is not None:
            output["loss"] = span_loss(output["logits"], labels)
        return output
