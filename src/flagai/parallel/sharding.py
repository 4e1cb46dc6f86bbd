"""How a model is sharded over processes: the mesh, what each dimension does, and this process' device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from flagai.errors import ConfigError, InputError
from flagai.parallel.collectives import all_agree
from flagai.parallel.fsdp import FullyShard, shard_fully
from flagai.parallel.plan import Plan
from flagai.parallel.tensor_parallel import parallelize
from flagai.parallel.world import AUTO, make_mesh, own_device, read_mesh


@dataclass(frozen=True)
class Sharding:
    """A mesh and its use.

    Args:
        mesh: with dimensions among ``dp`` and ``tp``.
        device: where this process computes.
        fsdp: shard over ``dp``; None keeps replicas there.
    """

    mesh: DeviceMesh
    device: torch.device
    fsdp: FullyShard | None

    def apply(self, model: nn.Module, plan: Plan, blocks: Iterable[nn.Module]) -> None:
        """Shard a model whose parameters are on the meta device.

        Args:
            model: the model.
            plan: of tensor parallelism.
            blocks: its blocks, the units of FSDP.

        Raises:
            ConfigError: heads or features cannot be shared out evenly.
        """
        names = self.mesh.mesh_dim_names or ()
        if "tp" in names and self.mesh["tp"].size() > 1:
            parallelize(model, plan, self.mesh["tp"])
        if self.fsdp is not None:
            shard_fully(model, blocks, self.mesh["dp"], self.fsdp)

    @property
    def tp_group(self) -> distributed.ProcessGroup | None:
        """The ranks that share this rank's model by tensor parallelism; None if it is alone."""
        return self._group("tp")

    @property
    def replicas(self) -> distributed.ProcessGroup | None:
        """The ranks that hold the same parameters as this one; None if it is alone."""
        return None if self.fsdp is not None else self._group("dp")

    @property
    def groups(self) -> list[distributed.ProcessGroup]:
        """This rank's group in each dimension of the mesh; together they reach all ranks."""
        names = self.mesh.mesh_dim_names or ()
        return [group for name in names if (group := self._group(name)) is not None]

    def _group(self, dimension: str) -> distributed.ProcessGroup | None:
        names = self.mesh.mesh_dim_names or ()
        if dimension not in names or self.mesh[dimension].size() == 1:
            return None
        return self.mesh[dimension].get_group()

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        """The values of the first rank of :attr:`tp_group`, on all of its ranks.

        Args:
            values: a tensor on the CPU.
        """
        if self.tp_group is None:
            return values
        shared = values.to(self.device)
        distributed.broadcast(shared, group=self.tp_group, group_src=0)
        return shared.cpu()

    def all_agree(self, vote: bool) -> bool:
        """Whether all ranks of :attr:`tp_group` vote True; all get the same answer.

        Args:
            vote: of this rank.
        """
        return vote if self.tp_group is None else all_agree(vote, self.tp_group, self.device)

    def least(self, value: int) -> int:
        """The least of the values of all ranks of :attr:`tp_group`.

        Args:
            value: of this rank.
        """
        if self.tp_group is None:
            return value
        found = torch.tensor(value, device=self.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MIN, group=self.tp_group)
        return int(found)

    def check_untying(self, name: str, source: str) -> None:
        """Refuse to give a parameter, tied by the configuration, values of its own where FSDP cannot.

        Args:
            name: the parameter.
            source: the checkpoint, for the message.

        Raises:
            ConfigError: the model is sharded by FSDP.
        """
        if self.fsdp is not None:
            raise ConfigError(
                f"{source} has two values for {name}, which the configuration ties. FSDP cannot untie it: "
                "load with tie_word_embeddings=False."
            )


def read_sharding(mesh: DeviceMesh | str, fsdp: FullyShard | bool, device: torch.device) -> Sharding | None:
    """Understand ``mesh`` and ``fsdp`` as users write them.

    Args:
        mesh: a mesh, or "auto"; with ``fsdp``, "auto" shards over all processes.
        fsdp: whether to shard over ``dp``, and how.
        device: the type of device for "auto"; a mesh knows its own.

    Returns:
        The sharding; None if there is only this process.

    Raises:
        InputError: they cannot be understood, or do not fit together.
    """
    how = FullyShard() if fsdp is True else fsdp or None
    if how is not None and not isinstance(how, FullyShard):
        raise InputError(f"fsdp={fsdp!r} is no way to shard. Pass True or flagai.parallel.fsdp.FullyShard(...).")
    found = read_mesh(mesh, device)
    if found is None:
        return None
    if mesh == AUTO and how is not None:
        found = make_mesh(device.type, dp=found.size(), tp=1)
    if how is not None and "dp" not in (found.mesh_dim_names or ()):
        raise InputError("fsdp shards over the dimension dp, which the mesh lacks. Make it with make_mesh(dp=...).")
    return Sharding(found, own_device(found.device_type), how)
