"""GLM, the original series: the backbone and everything that stands on it.

Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling";
heads as in THUDM/GLM and FlagAI.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from flagai.model.glm_backbone import GLMModel
from flagai.model.glm_cloze import GLMForMultiTokenCloze, GLMForMultiTokenClozeFast, GLMForSingleTokenCloze
from flagai.model.glm_config import GLMConfig
from flagai.model.glm_head import GLMHead, choice_loss, choices_as_rows, row_separators
from flagai.model.inputs import Output
from flagai.model.layer import Pooler
from flagai.model.layer.loss import masked_cross_entropy

__all__ = [
    "GLMConfig",
    "GLMForMultiTokenCloze",
    "GLMForMultiTokenClozeFast",
    "GLMForSeq2Seq",
    "GLMForSequenceClassification",
    "GLMForSingleTokenCloze",
    "GLMModel",
]


class GLMForSeq2Seq(GLMHead):
    """GLM for sequence-to-sequence training and generation (titles, poems)."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Run the model.

        Args:
            input_ids: [B, S]
            position_ids: see :meth:`GLMModel.forward`.
            attention_mask: see :meth:`GLMModel.forward`.
            target_ids: the target of every position, [B, S]; targets equal to 0 add nothing to the loss.
            loss_mask: weight of every target, [B, S]; default 1.
            **others: see :meth:`GLMModel.forward`.

        Returns:
            As the backbone; with ``target_ids`` also ``loss``, and ``logits`` flattened to [B * S, V].
        """
        output: Output = self.model(input_ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        mask = torch.ones_like(target_ids) if loss_mask is None else loss_mask
        output["loss"] = masked_cross_entropy(output["logits"], target_ids, mask, ignore_index=0)
        output["logits"] = output["logits"].flatten(0, 1)
        return output


class GLMForSequenceClassification(GLMHead):
    """Classifies a text, or chooses between texts, by one pooled token.

    Args:
        config: the configuration, with ``class_num`` and ``pool_token``: "cls" (the first token), "start" (the
            first one after the separator) or "pad" (the last one before it).
    """

    prefixes: ClassVar[dict[str, str]] = {"flagai": "model.", "huggingface": "model."}
    needs_classes: ClassVar[bool] = True

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config, output_predict=False)  # of the backbone; what is saved serves the other classes too
        config.require(config.class_num is not None, "GLMForSequenceClassification needs class_num=<number of classes>")
        self.pool = Pooler(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.class_num or 1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Classify.

        Args:
            input_ids: [B, S]; [B, C, S] to choose between texts.
            position_ids: [B, 2, S] or [B, C, 2, S].
            attention_mask: separators, [B] or [B, C].
            labels: [B]
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, classes], [B] for one class, [B, C] for choices; ``hidden_states``; ``loss`` with
            ``labels``.
        """
        choices, (ids, position_ids, attention_mask) = choices_as_rows(input_ids, position_ids, attention_mask)
        output: Output = self.model(ids, position_ids, attention_mask, **others)
        pooled = self.pool(self._pooled_state(output["logits"], attention_mask))
        logits = self.classifier(self.dropout(pooled))
        if choices is not None:
            logits = logits.view(-1, choices)
        elif self.config.class_num == 1:
            logits = logits[:, 0]
        output["logits"] = logits
        if labels is not None:
            output["loss"] = choice_loss(logits, labels)
        return output

    def _pooled_state(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if self.config.pool_token == "cls":  # noqa: S105 - a token of a text
            return hidden[:, 0]
        index = row_separators(attention_mask, len(hidden))
        if self.config.pool_token == "pad":  # noqa: S105
            index = index - 1
        return hidden[torch.arange(len(hidden), device=index.device), index]
