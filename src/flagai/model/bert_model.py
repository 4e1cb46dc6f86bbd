"""BERT, and RoBERTa-base-ch, which is a BERT: the backbone and everything that stands on it.

Source: Devlin et al. 2019, "BERT"; heads as in FlagAI and transformers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_backbone import BertModel
from flagai.model.bert_config import BertConfig, check_prefix
from flagai.model.inputs import Output, checked_ids, gather_positions, non_padding
from flagai.model.layer import CRF, GlobalPointer, KVCache, MaskLMHead, PackedRow, Prefix
from flagai.model.layer.loss import classification_loss, cross_entropy, masked_cross_entropy, span_loss
from flagai.model.weights import bert

__all__ = [
    "BertConfig",
    "BertForClsClassifier",
    "BertForEmbedding",
    "BertForMaskLM",
    "BertForSeq2seq",
    "BertForSequenceLabeling",
    "BertForSequenceLabelingCRF",
    "BertForSequenceLabelingGP",
    "BertModel",
]


class _BertHead(BaseModel):
    """A BERT with something on top."""

    config_class = BertConfig
    names = bert.NAMES
    plan = bert.PLAN
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "model.", "huggingface": "bert."}
    optional: ClassVar[tuple[str, ...]] = ("model.pooler",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        config.require(
            config.class_num is not None or not self.needs_classes,
            f"{type(self).__name__} needs class_num=<number of classes>",
        )
        self.model = BertModel(config)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse weights whose names say BERT where the configuration says RoBERTa, or the other way round."""
        check_prefix(names, self.config)

    def save_plan(self, layout: str, state_dict: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """What is written; a RoBERTa's head cannot be written in transformers' layout."""
        if layout == "huggingface" and self.config.position_offset:
            raise InputError(f"A RoBERTa {type(self).__name__} cannot be written in the layout 'huggingface' yet.")
        return super().save_plan(layout, state_dict)

    def _non_padding(
        self, input_ids: torch.Tensor | None, others: Mapping[str, Any]
    ) -> tuple[torch.Tensor, PackedRow | None]:
        """Which tokens are not padding, [B, S]; of packed sequences, those of the padded form, [N, S], and the row."""
        ids = checked_ids(input_ids)
        if others.get("lengths") is not None:
            row = PackedRow.of(others["lengths"])
            return row.valid(ids.device), row
        found = non_padding(ids, others.get("attention_mask"), self.config.pad_token_id)
        return torch.ones_like(ids, dtype=torch.bool) if found is None else found, None


class BertForEmbedding(_BertHead):
    """BERT whose ``logits`` are the last hidden states, to be averaged to sentence embeddings."""

    architecture = "BertModel"
    prefixes: ClassVar[Mapping[str, str]] = {"flagai": "model."}

    def forward(self, input_ids: torch.Tensor | None = None, **others: Any) -> Output:
        """The output of :class:`BertModel` for ``input_ids`` [B, S]; ``logits`` are hidden states [B, S, width]."""
        output: Output = self.model(input_ids, **others)
        return output


class BertForMaskLM(_BertHead):
    """BERT that predicts the tokens behind ``[MASK]``."""

    architecture = "BertForMaskedLM"
    fresh = ("head.*",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.head = MaskLMHead(
            config.hidden_size,
            config.vocab_size,
            "gelu" if config.position_offset else config.hidden_act,  # RoBERTa's head has an activation of its own
            config.layer_norm_eps,
            self.model.embed.token if config.tie_word_embeddings else None,
        )

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        *,
        logits_at: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score every token at every position.

        Args:
            input_ids: [B, S]
            labels: the right token, -100 where none is asked for, [B, S].
            logits_at: the positions whose logits are wanted, [B, N]; default all.
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, S or N, V]; ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        output["logits"] = self.head(gather_positions(output["hidden_states"], logits_at))
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


class BertForSeq2seq(BertForMaskLM):
    """BERT that generates: the first segment attends to itself, the second is causal (UniLM).

    Source:
        Dong et al. 2019, "Unified Language Model Pre-training".
    """

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model; ``capacity`` is the number of tokens that it has room for."""
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
                by token; ``logits_at``, the positions whose logits are wanted, [B, N]; the rest as
                :meth:`BertModel.forward`.

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
    optional = ()
    needs_classes = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.class_num or 0)

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **others: Any
    ) -> Output:
        """Classify.

        Args:
            input_ids: [B, S]
            labels: the class, [B] ([N] of packed texts); with ``problem_type`` "multi_label_classification" 1 for
                each right class, [B, classes]; with "regression", and with one output, the numbers, [B, classes] or
                [B].
            **others: see :meth:`BertModel.forward`.

        Returns:
            ``logits`` [B, classes] ([N, classes] of packed texts); ``hidden_states``; ``loss`` with ``labels``.
        """
        output: Output = self.model(input_ids, **others)
        output["logits"] = self.classifier(output["pooled"])
        if labels is not None:
            output["loss"] = classification_loss(output["logits"], labels, self.config.problem_type)
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
            logits = output["logits"]
            valid, row = self._non_padding(input_ids, others)
            if row is not None:
                logits, labels = row.pad(logits), row.pad(labels, fill=-100)
            output["loss"] = self.loss(logits, labels, valid)
        return output

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy of logits [B, S, labels] and labels [B, S] where both are valid [B, S]; a scalar."""
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
        """Mean negative log-likelihood of labels [B, S] under logits [B, S, labels], where valid [B, S]; a scalar."""
        return self.crf(logits, labels, valid & (labels != -100)).mean()


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
            Of packed texts, labels and logits have the padded form, where B is N and S the longest length.
        """
        output: Output = self.model(input_ids, **others)
        non_padding, row = self._non_padding(input_ids, others)
        output["logits"] = self.pointer(output["hidden_states"], non_padding, row)
        if labels is not None:
            output["loss"] = span_loss(output["logits"], labels)
        return output
