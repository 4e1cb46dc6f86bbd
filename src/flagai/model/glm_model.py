"""GLM, the original series: the backbone and everything that stands on it.

Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling";
heads as in THUDM/GLM and FlagAI.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.glm_backbone import GLMModel
from flagai.model.glm_config import GLMConfig
from flagai.model.inputs import Output, checked_ids
from flagai.model.layer import Causal, KVCache, Pooler
from flagai.model.layer.loss import cross_entropy, masked_cross_entropy
from flagai.model.weights import glm

__all__ = [
    "GLMConfig",
    "GLMForMultiTokenCloze",
    "GLMForMultiTokenClozeFast",
    "GLMForSeq2Seq",
    "GLMForSequenceClassification",
    "GLMForSingleTokenCloze",
    "GLMModel",
]


class _GLMHead(BaseModel):
    """A GLM with something on top."""

    config_class = GLMConfig
    names = glm.NAMES
    plan = glm.PLAN
    fresh = ("model.prompt.*", "pool.*", "classifier.*")

    def __init__(self, config: GLMConfig, **of_backbone: Any) -> None:
        super().__init__(config)
        self.model = GLMModel(config.replace(**of_backbone) if of_backbone else config)

    def init_std(self, name: str) -> float:
        """See the base class."""
        return self.model.init_std(name)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """See :meth:`GLMModel.new_cache`."""
        return self.model.new_cache(capacity)


class GLMForSeq2Seq(_GLMHead):
    """GLM for sequence-to-sequence training and generation (titles, poems).

    Args:
        config: the configuration.
    """

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


class GLMForSingleTokenCloze(_GLMHead):
    """Scores one-token answers at the blank.

    Args:
        config: the configuration; ``take_softmax=True`` gives log-probabilities (default: logits).
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score candidates at the first token after the separator.

        Args:
            input_ids: [B, S]
            position_ids: see :meth:`GLMModel.forward`.
            attention_mask: the separator of each row, [B].
            target_ids: the candidates, [B, C].
            labels: the right candidate, [B].
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, C]; ``target_logits`` [B, V], the logits of all tokens there; ``hidden_states``;
            ``loss`` with ``labels``. Without ``target_ids`` as the backbone.
        """
        output: Output = self.model(input_ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        separators = _row_separators(attention_mask, len(target_ids))
        at_blank = output["logits"][torch.arange(len(target_ids), device=separators.device), separators]
        scores = F.log_softmax(at_blank, dim=-1) if self.config.take_softmax else at_blank
        output |= {"logits": scores.gather(1, target_ids), "target_logits": at_blank}
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


def _row_separators(attention_mask: torch.Tensor | None, rows: int) -> torch.Tensor:
    if attention_mask is None or attention_mask.numel() not in (1, rows):
        raise InputError("This head needs the separator of every row as attention_mask, [B].")
    return attention_mask.reshape(-1).expand(rows).long()


def _flat(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """[B, C, ...] -> [B * C, ...]."""
    return None if tensor is None else tensor.flatten(0, 1)


class GLMForMultiTokenCloze(_GLMHead):
    """Scores answers of several tokens in the blank.

    Args:
        config: the configuration; ``take_softmax=False`` sums logits instead of log-probabilities,
            ``length_penalty`` divides a score by (answer's length) ** penalty.
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        logit_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score each choice.

        Args:
            input_ids: [B, C, S], or [B, S] for single texts.
            position_ids: [B, C, 2, S] or [B, 2, S].
            attention_mask: separators, [B, C] or [B].
            target_ids: the token that each position shall predict, as ``input_ids``.
            logit_mask: 1 at the positions of the answer, as ``input_ids``.
            labels: the right choice, [B]; for single texts whether the answer is right, [B].
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, C] or [B]; ``hidden_states``; ``loss`` with ``labels``. Without ``target_ids`` as the
            backbone.
        """
        ids = checked_ids(input_ids, (2, 3))
        choices = ids.shape[1] if ids.dim() == 3 else None
        if choices is not None:
            ids, position_ids, attention_mask = ids.flatten(0, 1), _flat(position_ids), _flat(attention_mask)
            target_ids, logit_mask = _flat(target_ids), _flat(logit_mask)
        output: Output = self.model(ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        scores = self.score(output["logits"], target_ids, logit_mask)
        output["logits"] = scores if choices is None else scores.view(-1, choices)
        if labels is not None:
            output["loss"] = choice_loss(output["logits"], labels)
        return output

    def score(self, logits: torch.Tensor, target_ids: torch.Tensor, logit_mask: torch.Tensor | None) -> torch.Tensor:
        """The score of each row's answer: logits [B, S, V], targets and mask [B, S] -> [B]."""
        mask = torch.ones_like(target_ids) if logit_mask is None else logit_mask
        if self.config.take_softmax is not False:
            logits = F.log_softmax(logits.float(), dim=-1)
        chosen = logits.gather(-1, target_ids[..., None])[..., 0] * mask
        scores = chosen.sum(-1)
        if self.config.length_penalty > 0:
            scores = scores / mask.sum(-1) ** self.config.length_penalty
        return scores


def choice_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over choices, [B, C] and [B]; binary cross entropy for single scores, [B] and [B]."""
    if scores.dim() == 1:
        return F.binary_cross_entropy_with_logits(scores.float(), labels.float())
    return cross_entropy(scores, labels)


class GLMForMultiTokenClozeFast(GLMForMultiTokenCloze):
    """The same scores with the text encoded once for all its choices.

    Args:
        config: the configuration.
    """

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        dec_input_ids: torch.Tensor | None = None,
        dec_position_ids: torch.Tensor | None = None,
        dec_attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        logit_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score each choice.

        Args:
            input_ids: the texts, [B, S].
            position_ids: [B, 2, S]
            attention_mask: lengths of the texts, [B].
            dec_input_ids: the choices, each with its start token, [B, C, T].
            dec_position_ids: [B, C, 2, T]
            dec_attention_mask: how much of its text each choice sees, [B, C].
            target_ids: the token that each position shall predict, [B, C, T].
            logit_mask: 1 at the positions of the answer, [B, C, T].
            labels: the right choice, [B].
            **others: ignored.

        Returns:
            ``logits`` [B, C]; ``hidden_states`` of the choices, [B * C, T, width]; ``loss`` with ``labels``.
        """
        self.ignore(others)
        if dec_input_ids is None or dec_attention_mask is None or target_ids is None:
            raise InputError("GLMForMultiTokenClozeFast needs dec_input_ids, dec_attention_mask and target_ids.")
        rows, choices, count = dec_input_ids.shape
        text = self.model(input_ids, position_ids, attention_mask, return_memory=True, detach_memory=False)
        memory: KVCache = text["hidden_states"]
        memory.select(torch.arange(rows, device=dec_input_ids.device).repeat_interleave(choices))
        mask = _text_and_past(dec_attention_mask.flatten(), memory.length, count)
        output: Output = self.model(_flat(dec_input_ids), _flat(dec_position_ids), mask, cache=memory)
        scores = self.score(output["logits"], target_ids.flatten(0, 1), _flat(logit_mask))
        output["logits"] = scores.view(rows, choices)
        if labels is not None:
            output["loss"] = choice_loss(output["logits"], labels)
        return output

    def blocks_to_shard(self) -> Iterator[nn.Module]:
        """None: gradients reach a block through the cache too, where FSDP does not see them coming."""
        return iter(())


def _text_and_past(lengths: torch.Tensor, remembered: int, count: int) -> torch.Tensor:
    """Queries see the first tokens of their text and each other causally, [B, 1, count, remembered + count]."""
    text = torch.arange(remembered, device=lengths.device) < lengths[:, None]
    text = text[:, None, None].expand(-1, 1, count, -1)
    causal = Causal().dense(count, count, lengths.device).expand(len(lengths), 1, -1, -1)
    return torch.cat([text, causal], dim=-1)


class GLMForSequenceClassification(_GLMHead):
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
        ids = checked_ids(input_ids, (2, 3))
        choices = ids.shape[1] if ids.dim() == 3 else None
        if choices is not None:
            ids, position_ids, attention_mask = ids.flatten(0, 1), _flat(position_ids), _flat(attention_mask)
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
        index = _row_separators(attention_mask, len(hidden))
        if self.config.pool_token == "pad":  # noqa: S105
            index = index - 1
        return hidden[torch.arange(len(hidden), device=index.device), index]
