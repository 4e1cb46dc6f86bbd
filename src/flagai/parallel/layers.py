"""What a layer does besides its ordinary work when its parameters are sharded over ranks.

Each mixin here joins the class of an existing layer (:func:`convert_in_place`), so that layers know nothing of ranks
and a model's parameters keep their names.
"""

from functools import cache
from typing import Any, Self

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from flagai.parallel.collectives import all_gather, all_reduce, copy_to_group
from flagai.parallel.dtensor import keeps_logits_sharded, local
from flagai.parallel.torch_private import distributed_tensor


class TensorParallelMixin(nn.Module):
    """Base of the mixins.

    Attributes:
        tp_mesh: the ranks that share the model, a mesh of one dimension.
        tp_group: the same as a process group.
    """

    tp_mesh: DeviceMesh
    tp_group: ProcessGroup


class Replicated(TensorParallelMixin):
    """A layer that computes as ever, with this rank's shards of its parameters, or with replicas."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer, with plain tensors in the place of its distributed parameters."""
        return super(Replicated, self._with_local_parameters()).forward(*args, **kwargs)

    def _with_local_parameters(self) -> Self:
        """A copy of the module for one call: other threads may be in a call of the module itself."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        # An instance's own attributes are found before nn.Module looks for parameters.
        local_parameters = {name: local(value) for name, value in self._parameters.items() if value is not None}
        twin.__dict__.update(local_parameters)
        if "_flat_weights" in twin.__dict__:  # recurrent layers keep a list of their parameters besides
            twin.__dict__["_flat_weights"] = list(local_parameters.values())
        return twin


class ColumnParallel(Replicated):
    """A layer that holds some output features, or heads; its inputs are whole."""


class GroupParallel(TensorParallelMixin):
    """Keys or values of fewer groups than ranks: each rank holds all of them and computes that of its own heads."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    head_dim: int

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., head_dim]."""
        return F.linear(hidden, self._own(self.weight), None if self.bias is None else self._own(self.bias))

    def _own(self, rows: torch.Tensor) -> torch.Tensor:
        groups = len(rows) // self.head_dim
        group = self.tp_mesh.get_local_rank() * groups // self.tp_mesh.size()
        # The ranks' gradients of the whole are summed: each has those of one group.
        return copy_to_group(local(rows), self.tp_group)[group * self.head_dim : (group + 1) * self.head_dim]


class GradientAllReduce(TensorParallelMixin):
    """A module whose inputs are replicated and whose first layers are sharded: gradients of its inputs are summed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module."""
        if torch.is_grad_enabled():
            args = tuple(self._copy(value) for value in args)
            kwargs = {name: self._copy(value) for name, value in kwargs.items()}
        return super().forward(*args, **kwargs)

    def _copy(self, value: Any) -> Any:
        return copy_to_group(value, self.tp_group) if isinstance(value, torch.Tensor) else value


class RowParallel(TensorParallelMixin):
    """A linear layer that holds some input features: the ranks' outputs are summed, then the bias is added once."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., this rank's inner features] -> [..., width]."""
        total = all_reduce(F.linear(hidden, local(self.weight)), self.tp_group)
        return total if self.bias is None else total + local(self.bias)


class VocabParallel(TensorParallelMixin):
    """A layer that holds some rows of the vocabulary: an embedding, or the head that scores tokens."""

    weight: torch.Tensor
    gather_logits = True

    @property
    def first_row(self) -> int:
        """The first token that this rank holds."""
        return -(-self.weight.shape[0] // self.tp_mesh.size()) * self.tp_mesh.get_local_rank()

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., width]; what an embedding does with ids that it has checked."""
        rows = local(self.weight)
        here = ids - self.first_row
        absent = (here < 0) | (here >= len(rows))
        vectors = F.embedding(here.masked_fill(absent, 0), rows).masked_fill(absent[..., None], 0)
        return all_reduce(vectors, self.tp_group)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., V]; sharded if ``gather_logits`` is off, or in :func:`sharded_logits`."""
        bias = self._parameters.get("bias")  # embeddings have none
        weight, size = local(self.weight), self.weight.shape[0]
        logits = F.linear(copy_to_group(hidden, self.tp_group), weight, None if bias is None else local(bias))
        if self.gather_logits and not keeps_logits_sharded():
            return all_gather(logits, size, self.tp_group)
        return self._as_dtensor(logits, size)

    def _as_dtensor(self, logits: torch.Tensor, size: int) -> torch.Tensor:
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size([*logits.shape[:-1], size])
        stride = torch.empty(shape, device="meta").stride()
        placement = (Shard(logits.dim() - 1),)
        if not logits.requires_grad:
            return distributed_tensor(logits, self.tp_mesh, placement, shape, stride)
        return DTensor.from_local(logits, self.tp_mesh, placement, run_check=False, shape=shape, stride=stride)


class VocabParallelHead(VocabParallel):
    """A linear layer over the vocabulary."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., V]."""
        return self.score(hidden)


def convert_in_place(
    module: nn.Module, mixin: type[TensorParallelMixin], mesh: DeviceMesh, group: ProcessGroup
) -> None:
    """Add a mixin to one module.

    Args:
        module: the layer; its class becomes a subclass of both.
        mixin: what it does besides.
        mesh: the ranks that share the model.
        group: of the mesh.
    """
    # Not by nn.Module's way, which first asks whether these are parameters, modules or buffers.
    object.__setattr__(module, "__class__", _mixed(mixin, type(module)))  # type: ignore[arg-type]  # classes are hashable
    object.__setattr__(module, "tp_mesh", mesh)
    object.__setattr__(module, "tp_group", group)


@cache
def _mixed(mixin: type, layer: type) -> type[nn.Module]:
    return type(
        f"{mixin.__name__}{layer.__name__}", (mixin, layer), {"__doc__": mixin.__doc__, "unsharded_type": layer}
    )
