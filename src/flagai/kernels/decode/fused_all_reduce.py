"""Sums that several GPUs compute together in a decoding step, and what follows a sum: bias, residual, norm."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import ProcessGroup

from flagai.kernels.decode.ops import Tiling, linear_act_residual
from flagai.kernels.hardware import next_power_of_2, pdl_options
from flagai.parallel.symmetric_memory import SymmetricBuffer


@dataclass(frozen=True)
class TensorParallelGroup:
    """How the ranks of a group add up.

    Args:
        group: the ranks.
        buffer: memory that their GPUs share; None goes through the group's own sums.
    """

    group: ProcessGroup
    buffer: SymmetricBuffer | None


@dataclass(frozen=True)
class RowParallelLinear:
    """A linear layer of which this rank holds some input features.

    Args:
        layer: with this rank's columns, and without a bias.
        bias: added to the sum of all ranks, once.
    """

    layer: nn.Linear
    bias: torch.Tensor


def linear_all_reduce(
    tokens: torch.Tensor,
    part: RowParallelLinear,
    meeting: TensorParallelGroup,
    number: int,
    *,
    residual: torch.Tensor,
    norm: nn.LayerNorm | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of all ranks' products, a bias and a residual; all ranks call it at once and get the same numbers.

    Args:
        tokens: this rank's features, contiguous, [M, K].
        part: the layer, [N, K].
        meeting: the ranks.
        number: which sum of the step it is; of sums that follow each other, one is even and one odd.
        residual: added in the end, [M, N].
        norm: applied to a copy of the result.

    Shape:
        -> [M, N], and the same after the norm
    """
    out = torch.empty_like(residual)
    normed = out if norm is None else torch.empty_like(residual)
    after = _after(part, residual, norm, out, normed)
    if meeting.buffer is None:
        sums = linear_act_residual(tokens, part.layer)
        distributed.all_reduce(sums, group=meeting.group)
        _finish(sums, after)
    else:
        _send(tokens, part.layer, meeting.buffer, number)
        _receive(meeting.buffer, number, after)
    return out, normed


def _after(
    part: RowParallelLinear, residual: torch.Tensor, norm: nn.LayerNorm | None, out: torch.Tensor, normed: torch.Tensor
) -> dict[str, Any]:
    """What the kernels do with a sum, as their arguments."""
    return {
        "bias": part.bias,
        "residual": residual,
        "gain": out if norm is None else norm.weight,
        "shift": out if norm is None else norm.bias,
        "eps": 0.0 if norm is None else norm.eps,
        "out": out,
        "normed": normed,
        "N": residual.shape[1],
        "BK": next_power_of_2(residual.shape[1]),
        "BIAS": True,
        "NORM": norm is not None,
        "num_warps": 16,
    }


def _finish(sums: torch.Tensor, after: dict[str, Any]) -> None:
    from flagai.kernels.triton.all_reduce import bias_residual_norm_kernel

    bias_residual_norm_kernel[(len(sums),)](sums, **after, **pdl_options(sums.device, wanted=False))


def _send(tokens: torch.Tensor, layer: nn.Linear, buffer: SymmetricBuffer, number: int) -> None:
    from flagai.kernels.triton.all_reduce import send_kernel

    (count, size), outputs = tokens.shape, len(layer.weight)
    tiling = Tiling.of(outputs, size, count)
    send_kernel[(-(-outputs // tiling.rows),)](
        tokens,
        layer.weight,
        buffer.peer_addresses,
        buffer.step_counter,
        number,
        outputs,
        buffer.capacity,
        K=size,
        M=count,
        MP=1 if count == 1 else 16,
        BN=tiling.rows,
        BK=tiling.columns,
        RANK=buffer.rank,
        COUNT=buffer.count,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **pdl_options(tokens.device),
    )


def _receive(buffer: SymmetricBuffer, number: int, after: dict[str, Any]) -> None:
    from flagai.kernels.triton.all_reduce import receive_kernel

    receive_kernel[(len(after["out"]),)](
        buffer.slots,
        buffer.step_counter,
        number,
        CAPACITY=buffer.capacity,
        COUNT=buffer.count,
        **after,
        **pdl_options(buffer.slots.device),
    )
