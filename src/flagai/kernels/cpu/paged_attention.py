"""Paged attention on a CPU; see :mod:`flagai.kernels.cpu.slot_plan`."""

import torch

from flagai.kernels.cpu.slot_plan import plan_of
from flagai.model.layer.paged_attention import SlotTable, paged_attention


def _suits(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and query.shape[0] > 0
        and not table.static
        and plan_of(keys, table).distinct
    )


@paged_attention.faster(_suits)
def paged_attention_cpu(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Text by text, or neighbours together."""
    return plan_of(keys, table).attend(query, (keys, values), bias, scale)
