"""Fully sharded data parallelism (FSDP2), block by block, alone or around tensor parallelism.

Sources: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"; Zhao et al.
2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


@dataclass(frozen=True)
class FullyShard:
    """How to shard parameters, gradients and optimizer states over the data-parallel ranks.

    Args:
        param_dtype: the type in which layers compute; parameters keep theirs. Default: the parameters' own.
        reduce_dtype: the type in which gradients are added up; default ``param_dtype``.
        reshard_after_forward: give up a block's full parameters after its forward pass and fetch them again for
            the backward pass: less memory, more traffic.
    """

    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    reshard_after_forward: bool = True


def shard_fully(model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, how: FullyShard) -> None:
    """Shard a model: each block is a unit that is gathered on its own; the rest is one more.

    Args:
        model: the model, best on the meta device (:meth:`BaseModel.on_meta`); tensor parallelism comes first.
        blocks: its blocks.
        mesh: the data-parallel dimension.
        how: the options.
    """
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=how.param_dtype, reduce_dtype=how.reduce_dtype),
        "reshard_after_forward": how.reshard_after_forward,
    }
    for block in blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
