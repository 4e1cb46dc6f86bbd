"""Tensor parallelism: shard a model over ranks as its plan says.

Parameters become DTensors, also those that every rank holds whole, so that optimizers, gradient clipping, FSDP and
distributed checkpoints see one kind of parameter. The layers compute with the local parts (see
:mod:`flagai.parallel.layers`): two all-reduces per block, and no DTensor arithmetic in between.

Source: Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism".
"""

from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard

from flagai.errors import ConfigError
from flagai.parallel.dtensor import as_parameter
from flagai.parallel.layers import (
    ColumnParallel,
    GradientAllReduce,
    GroupParallel,
    Replicated,
    RowParallel,
    TensorParallelMixin,
    VocabParallel,
    VocabParallelHead,
    convert_in_place,
)
from flagai.parallel.plan import STYLES, Plan, style
from flagai.parallel.torch_private import distributed_tensor

_MIXINS: dict[str, type[TensorParallelMixin]] = {
    "column": ColumnParallel,
    "group": ColumnParallel,
    "shared group": GroupParallel,
    "row": RowParallel,
    "vocab": VocabParallel,
    "table": ColumnParallel,
    "copy": Replicated,
}
_SHARED = "shared group"


def parallelize(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> None:
    """Shard a model over the ranks of a mesh; tied parameters stay tied.

    Args:
        model: the model, best on the meta device (:meth:`BaseModel.on_meta`); otherwise the same on all ranks.
        plan: how its parameters are sharded.
        mesh: one dimension.

    Raises:
        ConfigError: heads or features cannot be shared out evenly; the model is as it was.
    """
    modules = dict(model.named_modules())
    styles = {
        name: style(plan, name)
        for name, module in modules.items()
        if any(parameter is not None for parameter in module._parameters.values())
    }
    _check(model, modules, styles, mesh.size())
    styles = {name: _of_groups(modules, name, kind, mesh.size()) for name, kind in styles.items()}
    group, rank = mesh.get_group(), mesh.get_local_rank()
    placed: dict[int, nn.Parameter] = {}
    for name, kind in styles.items():
        _place_parameters(modules[name], kind, mesh, rank, placed)
        convert_in_place(modules[name], _mixin(modules[name], kind), mesh, group)
        if kind == _SHARED:
            modules[name].head_dim = _unit(modules, name)
    for name in {name.rpartition(".")[0] for name, kind in styles.items() if kind == "column"}:
        convert_in_place(modules[name], GradientAllReduce, mesh, group)


def keep_logits_sharded(model: nn.Module, keep: bool = True) -> None:
    """Let each rank keep its shard of the logits instead of gathering them: less memory and traffic in training.

    The loss of models that predict tokens (``labels``, ``target_ids``) is computed from the shards; ``logits`` is then
    a DTensor, whose ``full_tensor()`` gathers it. The cloze heads of GLM need whole logits.

    Args:
        model: a tensor-parallel model.
        keep: False gathers again.
    """
    for module in model.modules():
        if isinstance(module, VocabParallel):
            module.gather_logits = not keep


def _mixin(module: nn.Module, kind: str) -> type[TensorParallelMixin]:
    return VocabParallelHead if kind == "vocab" and isinstance(module, nn.Linear) else _MIXINS[kind]


def _place_parameters(
    module: nn.Module, kind: str, mesh: DeviceMesh, rank: int, placed: dict[int, nn.Parameter]
) -> None:
    for leaf, parameter in module._parameters.items():
        if parameter is None:
            continue
        if id(parameter) not in placed:
            values = _distributed(parameter.detach(), STYLES.get(kind, {}).get(leaf), mesh, rank)
            placed[id(parameter)] = as_parameter(values, parameter.requires_grad)
        module._parameters[leaf] = placed[id(parameter)]


def _distributed(tensor: torch.Tensor, dimension: int | None, mesh: DeviceMesh, rank: int) -> torch.Tensor:
    """This rank's part of a tensor that all ranks have, as a distributed tensor; nothing is communicated."""
    part, placement = tensor, (Replicate() if dimension is None else Shard(dimension),)
    if dimension is not None:
        each = -(-tensor.shape[dimension] // mesh.size())  # as torch cuts: the last parts may be smaller
        begin = rank * each
        part = tensor.narrow(dimension, begin, min(each, tensor.shape[dimension] - begin)).contiguous()
    return distributed_tensor(part, mesh, placement, tensor.shape, tensor.stride())


def _check(model: nn.Module, modules: dict[str, nn.Module], styles: dict[str, str], degree: int) -> None:
    """Refuse degrees that would cut through a head, or leave a rank without tokens."""
    for name, kind in styles.items():
        for leaf, dimension in STYLES[kind].items():
            parameter = getattr(modules[name], leaf, None)
            if parameter is None:
                continue
            extent = parameter.shape[dimension]
            if kind == "vocab":
                _check_vocabulary(model, extent, degree)
                continue
            unit = _unit(modules, name)
            if extent // unit % degree and not (kind == "group" and degree % (extent // unit) == 0):
                what = "attention heads" if unit > 1 or kind == "table" else "inner features"
                raise _refusal(model, f"{extent // unit} {what} ({name})", extent // unit, degree)


def _unit(modules: dict[str, nn.Module], name: str) -> int:
    """Features of a layer that stay together: those of a head."""
    return int(getattr(modules[name.rpartition(".")[0]], "head_dim", 1))


def _of_groups(modules: dict[str, nn.Module], name: str, kind: str, degree: int) -> str:
    """The style of a layer; that of grouped heads depends on whether each rank gets a group."""
    rows = cast(torch.Tensor, modules[name].weight).shape[0] if kind == "group" else 0
    return _SHARED if kind == "group" and rows // _unit(modules, name) < degree else kind


def _check_vocabulary(model: nn.Module, extent: int, degree: int) -> None:
    each = -(-extent // degree)
    if (degree - 1) * each >= extent:
        raise ConfigError(f"{type(model).__name__}: {extent} tokens are too few for {degree} ranks (mesh tp={degree}).")


def _refusal(model: nn.Module, what: str, count: int, degree: int) -> ConfigError:
    fitting = ", ".join(str(number) for number in range(1, min(count, 128) + 1) if count % number == 0)
    return ConfigError(
        f"{type(model).__name__}: {what} cannot be shared out evenly among the {degree} ranks of tp. "
        f"Degrees that fit: {fitting}; further ranks can be dp."
    )
