"""What a layer does besides its ordinary work when its parameters are cut over ranks.

Each class here is mixed into the class of a layer that exists (:func:`become`), so that layers know nothing of ranks
and a model's parameters keep their names.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from flagai.parallel.collectives import add_up, enter, put_together
from flagai.parallel.dtensor import computes_in_parts, distributed_tensor, local


@dataclass(frozen=True)
class Group:
    """The ranks that share a model.

    Args:
        mesh: their mesh, of one dimension.
        ranks: the same as a process group.
    """

    mesh: DeviceMesh
    ranks: ProcessGroup


class Brick(nn.Module):
    """Base of the mixins."""

    group: Group


class Local(Brick):
    """Computes as ever, with this rank's parts of the parameters."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer; what it sees as its parameters are their local parts."""
        return super(Local, self._with_parts()).forward(*args, **kwargs)

    def _with_parts(self) -> Self:
        """A module for one call, with the local parts as attributes: other threads may be in a call of this one."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        for name, parameter in self._parameters.items():
            if parameter is not None:
                # An instance's own attributes are found before nn.Module looks for parameters.
                twin.__dict__[name] = local(parameter)
        return twin


class LocalRecurrent(Local):
    """The same for recurrent layers, which keep a list of their parameters besides."""

    def _with_parts(self) -> Self:
        twin = super()._with_parts()
        twin.__dict__["_flat_weights"] = [local(parameter) for parameter in self.parameters(recurse=False)]
        return twin


class Entrance(Brick):
    """A module whose inputs all ranks have and whose first layers are cut: gradients of the inputs are added up."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module."""
        if torch.is_grad_enabled():
            args = tuple(self._entered(value) for value in args)
            kwargs = {name: self._entered(value) for name, value in kwargs.items()}
        return super().forward(*args, **kwargs)

    def _entered(self, value: Any) -> Any:
        return enter(value, self.group.ranks) if isinstance(value, torch.Tensor) else value


class Row(Brick):
    """A linear layer that holds some input features: the ranks' outputs are added up, then the bias is added once."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., this rank's inner features] -> [..., width]."""
        total = add_up(F.linear(hidden, local(self.weight)), self.group.ranks)
        return total if self.bias is None else total + local(self.bias)


class Vocabulary(Brick):
    """A layer that holds some rows of the vocabulary: an embedding, or the head that scores tokens."""

    weight: torch.Tensor
    keep_sharded = False

    @property
    def first_row(self) -> int:
        """The first token that this rank holds."""
        return -(-self.weight.shape[0] // self.group.mesh.size()) * self.group.mesh.get_local_rank()

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., width]; what an embedding does with ids that it has checked."""
        rows = local(self.weight)
        here = ids - self.first_row
        absent = (here < 0) | (here >= len(rows))
        found = F.embedding(here.masked_fill(absent, 0), rows).masked_fill(absent[..., None], 0)
        return add_up(found, self.group.ranks)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., V], whole unless ``keep_sharded`` is set or the caller takes parts."""
        bias = self._parameters.get("bias")  # embeddings have none
        scores = F.linear(enter(hidden, self.group.ranks), local(self.weight), None if bias is None else local(bias))
        size = self.weight.shape[0]
        in_parts = self.keep_sharded or computes_in_parts(self)
        return self._sharded(scores, size) if in_parts else put_together(scores, size, self.group.ranks)

    def _sharded(self, scores: torch.Tensor, size: int) -> torch.Tensor:
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size([*scores.shape[:-1], size])
        stride = torch.empty(shape, device="meta").stride()
        placement = (Shard(scores.dim() - 1),)
        if not scores.requires_grad:
            return distributed_tensor(scores, self.group.mesh, placement, shape, stride)
        return DTensor.from_local(scores, self.group.mesh, placement, run_check=False, shape=shape, stride=stride)


class VocabularyHead(Vocabulary):
    """A linear layer over the vocabulary."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., V]."""
        return self.score(hidden)


def become(module: nn.Module, brick: type[Brick], group: Group) -> None:
    """Mix a brick into one module.

    Args:
        module: the layer; its class becomes a subclass of both.
        brick: what it shall do besides.
        group: the ranks that share the model.
    """
    # Not by nn.Module's way, which first asks whether these are parameters, modules or buffers.
    object.__setattr__(module, "__class__", _mixed(brick, type(module)))  # type: ignore[arg-type]  # classes are hashable
    object.__setattr__(module, "group", group)


@cache
def _mixed(brick: type, layer: type) -> type[nn.Module]:
    return type(f"{brick.__name__}{layer.__name__}", (brick, layer), {"__doc__": brick.__doc__, "without_brick": layer})
