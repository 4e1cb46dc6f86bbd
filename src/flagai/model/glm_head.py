"""What GLM's heads have in common."""

from typing import Any

import torch
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.glm_backbone import GLMModel
from flagai.model.glm_config import GLMConfig
from flagai.model.inputs import checked_ids
from flagai.model.layer import KVCache
from flagai.model.layer.loss import cross_entropy
from flagai.model.weights import glm


class GLMHead(BaseModel):
    """A GLM with something on top."""

    config_class = GLMConfig
    names = glm.NAMES
    plan = glm.PLAN
    fresh = ("model.prompt.*", "pool.*", "classifier.*")

    def __init__(self, config: GLMConfig, **of_backbone: Any) -> None:
        super().__init__(config)
        self.model = GLMModel(config.replace(**of_backbone) if of_backbone else config)

    def init_std(self, name: str) -> float:
        """The standard deviation of a parameter: the backbone's for its own."""
        return self.model.init_std(name)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """See :meth:`GLMModel.new_cache`."""
        return self.model.new_cache(capacity)


def row_separators(attention_mask: torch.Tensor | None, rows: int) -> torch.Tensor:
    """The separator of each row, [B]; a head cannot do without it."""
    if attention_mask is None or attention_mask.numel() not in (1, rows):
        raise InputError("This head needs the separator of every row as attention_mask, [B].")
    return attention_mask.reshape(-1).expand(rows).long()


def choices_as_rows(
    input_ids: torch.Tensor | None, *others: torch.Tensor | None
) -> tuple[int | None, list[torch.Tensor | None]]:
    """The number of choices for each text, None for single texts, and inputs of which each choice is a row.

    Args:
        input_ids: [B, C, S], or [B, S] for single texts.
        *others: inputs with the same first dimensions.
    """
    ids = checked_ids(input_ids, (2, 3))
    tensors = [ids, *others]
    return (None, tensors) if ids.dim() == 2 else (ids.shape[1], [flat_choices(tensor) for tensor in tensors])


def flat_choices(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """[B, C, ...] -> [B * C, ...]."""
    return None if tensor is None else tensor.flatten(0, 1)


def choice_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over choices, [B, C] and [B]; binary cross entropy for single scores, [B] and [B]."""
    if scores.dim() == 1:
        return F.binary_cross_entropy_with_logits(scores.float(), labels.float())
    return cross_entropy(scores, labels)
