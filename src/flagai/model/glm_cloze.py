"""GLM's heads for cloze questions; import them from :mod:`flagai.model.glm_model`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.glm_head import GLMHead, choice_loss, choices_as_rows, flat_choices, row_separators
from flagai.model.inputs import Output
from flagai.model.layer import Causal, KVCache
from flagai.model.layer.loss import cross_entropy


class GLMForSingleTokenCloze(GLMHead):
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
        separators = row_separators(attention_mask, len(target_ids))
        at_blank = output["logits"][torch.arange(len(target_ids), device=separators.device), separators]
        scores = F.log_softmax(at_blank, dim=-1) if self.config.take_softmax else at_blank
        output |= {"logits": scores.gather(1, target_ids), "target_logits": at_blank}
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


class GLMForMultiTokenCloze(GLMHead):
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
            target_ids: the token that each position predicts, as ``input_ids``.
            logit_mask: 1 at the positions of the answer, as ``input_ids``.
            labels: the right choice, [B]; for single texts whether the answer is right, [B].
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, C] or [B]; ``hidden_states``; ``loss`` with ``labels``. Without ``target_ids`` as the
            backbone.
        """
        choices, (ids, position_ids, attention_mask, target_ids, logit_mask) = choices_as_rows(
            input_ids, position_ids, attention_mask, target_ids, logit_mask
        )
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


class GLMForMultiTokenClozeFast(GLMForMultiTokenCloze):
    """The same scores with the text encoded once for all its choices."""

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
            dec_attention_mask: how many tokens of its text each choice attends to, [B, C].
            target_ids: the token that each position predicts, [B, C, T].
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
        output: Output = self.model(flat_choices(dec_input_ids), flat_choices(dec_position_ids), mask, cache=memory)
        scores = self.score(output["logits"], target_ids.flatten(0, 1), flat_choices(logit_mask))
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
