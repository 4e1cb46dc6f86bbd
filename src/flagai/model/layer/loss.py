"""Losses, computed in float32."""

import torch
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.parallel.dtensor import is_sharded

_NONE = -100


def _each(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The cross entropy of each target: logits [..., V], targets [...] -> [number of targets]."""
    if is_sharded(logits):
        from flagai.parallel.vocab_parallel import sharded_cross_entropy

        return sharded_cross_entropy(logits, targets, ignore_index)
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=ignore_index, reduction="none"
    )


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over all targets that are not -100.

    Shape:
        logits [..., V], targets [...] -> []
    """
    if is_sharded(logits):
        return _each(logits, targets, _NONE).sum() / (targets != _NONE).sum()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1))


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """The loss of a classifier: cross entropy; of classes by themselves binary cross entropy; of numbers square error.

    Args:
        logits: [B, classes]
        labels: classes, [B]; of classes by themselves and of numbers [B, classes], or [B] for one output.
        problem_type: transformers' name of the problem; None: a number if there is one output, else one class.

    Raises:
        InputError: the labels have another shape.
    """
    if problem_type == "single_label_classification" or (problem_type is None and logits.shape[-1] > 1):
        return cross_entropy(logits, labels)
    if labels.numel() != logits.numel():
        raise InputError(
            f"labels have shape {list(labels.shape)}; expected {list(logits.shape)} for problem_type {problem_type}."
        )
    loss = F.binary_cross_entropy_with_logits if problem_type == "multi_label_classification" else F.mse_loss
    return loss(logits.float(), labels.reshape(logits.shape).float())


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each position's logits with the label of the next position.

    Shape:
        logits [B, S, V], labels [B, S] -> []
    """
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def masked_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, ignore_index: int = _NONE
) -> torch.Tensor:
    """Cross entropy summed over the masked positions, divided by their weight.

    Targets equal to ``ignore_index`` add nothing but stay in the denominator.

    Shape:
        logits [..., V], targets [...], mask [...] -> []
    """
    losses = _each(logits, targets, ignore_index)
    weights = mask.reshape(-1).float()
    return (losses * weights).sum() / weights.sum()


def span_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Multi-label categorical cross entropy: every gold span should score above 0, every other one below.

    Args:
        scores: [B, C, S, S]
        labels: 1 at gold spans, [B, C, S, S]

    Shape:
        -> [], the mean over rows and classes

    Source:
        Su et al. 2022, "Global Pointer".
    """
    scores = scores.float().flatten(2)
    gold = labels.flatten(2).bool()
    zero = scores.new_zeros(*scores.shape[:2], 1)
    positive = torch.cat([(-scores).masked_fill(~gold, -torch.inf), zero], dim=-1)
    negative = torch.cat([scores.masked_fill(gold, -torch.inf), zero], dim=-1)
    return (positive.logsumexp(-1) + negative.logsumexp(-1)).mean()
