"""Who this process is among its peers, and the mesh that they form."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from flagai import settings
from flagai.errors import InputError

# The dimensions that a mesh may have, from the outside in: neighbouring ranks share a model.
DIMENSIONS = ("dp", "tp")
AUTO = "auto"


@dataclass(frozen=True)
class World:
    """The place of this process.

    Args:
        rank: its number among all processes.
        size: how many there are.
        local_rank: its number on its machine.
        local_size: how many there are on its machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def world() -> World:
    """Where this process stands, from torchrun's variables or from a process group that already runs."""
    rank, size = settings.rank(), settings.world_size()
    if distributed.is_initialized():
        rank, size = distributed.get_rank(), distributed.get_world_size()
    if settings.world_size() == size:
        return World(rank, size, settings.local_rank(), settings.local_world_size())
    return World(rank, size, rank, size)  # processes started by hand: one machine


def own_device(kind: str) -> torch.device:
    """The device of this process: each rank of a machine has its own accelerator.

    Args:
        kind: "cpu", "cuda" or another type of device.
    """
    return torch.device(kind) if kind == "cpu" else torch.device(kind, world().local_rank)


def make_mesh(kind: str = "cpu", *, dp: int | None = None, tp: int | None = None) -> DeviceMesh:
    """Arrange all processes in a mesh, and connect them if they are not.

    Args:
        kind: the type of device.
        dp: number of data-parallel groups; default: as many as the processes make.
        tp: number of processes that share one model; default: all of a machine's, or what ``dp`` leaves.

    Returns:
        A mesh with the dimensions ``dp`` and ``tp``; a dimension of size 1 is left out unless it was asked for.

    Raises:
        InputError: the numbers do not fit the number of processes.
    """
    place = world()
    asked = {"dp": dp, "tp": tp}
    if any(number is not None and number < 1 for number in asked.values()):
        raise InputError(f"A mesh of dp={dp} and tp={tp} has no processes. Choose factors of {place.size}.")
    if tp is None:
        tp = place.local_size if dp is None else place.size // dp
    dp = place.size // tp if dp is None else dp
    if dp * tp != place.size:
        raise InputError(
            f"A mesh of dp={dp} and tp={tp} needs {dp * tp} processes, but there are {place.size}. "
            f"Start it with torchrun --nproc-per-node {dp * tp}, or choose factors of {place.size}."
        )
    _connect(kind)
    sizes = {name: size for name, size in {"dp": dp, "tp": tp}.items() if size > 1 or asked[name] is not None}
    sizes = sizes or {"tp": 1}
    return init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def _connect(kind: str) -> None:
    if distributed.is_initialized():
        return
    options: dict[str, Any] = {"backend": "gloo"} if kind == "cpu" else {"device_id": own_device(kind)}
    if kind != "cpu":
        torch.accelerator.set_device_index(own_device(kind).index)
    if world().size == 1:  # without torchrun there is no other process
        options |= {"store": distributed.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    distributed.init_process_group(**options)


def read_mesh(mesh: DeviceMesh | str, device: torch.device) -> DeviceMesh | None:
    """The mesh that a user names.

    Args:
        mesh: a mesh with dimensions among ``dp`` and ``tp``, or "auto": the processes of a machine share a model,
            machines hold replicas.
        device: for "auto", the type of device.

    Returns:
        The mesh; None if "auto" finds only this process.

    Raises:
        InputError: it is neither, or has other dimensions.
    """
    if mesh == AUTO:
        return None if world().size == 1 else make_mesh(device.type)
    if not isinstance(mesh, DeviceMesh):
        raise InputError(
            f"mesh={mesh!r} is not a mesh. Pass 'auto', or flagai.parallel.world.make_mesh(dp=..., tp=...)."
        )
    names = mesh.mesh_dim_names or ()
    if not names or set(names) - set(DIMENSIONS):
        raise InputError(
            f"The mesh has the dimensions {list(names)}; expected names among {list(DIMENSIONS)}. "
            "Make it with flagai.parallel.world.make_mesh(dp=..., tp=...)."
        )
    return mesh
