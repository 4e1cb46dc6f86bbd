"""Symmetric memory: a buffer on each GPU of a group that all of its GPUs write into, for small all-reduces.

Source: the LL protocol of NCCL (https://github.com/NVIDIA/nccl), which puts a flag beside each value.
"""

import logging
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from flagai.parallel.collectives import all_agree
from flagai.parallel.torch_private import symmetric_memory
from flagai.parallel.world import world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SymmetricBuffer:
    """Slots on this rank's device that the ranks of a group write into; :func:`rendezvous` makes it.

    A slot holds a value and the sequence number of its all-reduce, in 8 bytes that arrive together: a reader polls for
    the number and needs no other signal (NCCL's LL protocol). There are two pages, used alternately: a rank that writes
    page 0 again has read page 1, which no rank wrote before it had read page 0.

    Args:
        slots: of this rank, zero at first; [2 pages, count, capacity].
        peer_addresses: the addresses of the slots of all ranks, on the device, [count].
        step_counter: the number of the decoding step, on the device, [1]; the same on all ranks.
        rank: of this process in the group.
    """

    slots: torch.Tensor
    peer_addresses: torch.Tensor
    step_counter: torch.Tensor
    rank: int

    def __deepcopy__(self, _: object) -> "SymmetricBuffer":
        """Copies of a model share the buffer: its address is known to the other ranks."""
        return self

    @property
    def count(self) -> int:
        """The number of ranks."""
        return self.slots.shape[1]

    @property
    def capacity(self) -> int:
        """How many values a rank may write to a page."""
        return self.slots.shape[2]


def rendezvous(group: ProcessGroup, capacity: int, device: torch.device) -> SymmetricBuffer | None:
    """Allocate a buffer on each rank of a group; all ranks call it together, and all or none get one.

    Args:
        group: the ranks.
        capacity: how many values a rank may write at once.
        device: of this rank.

    Returns:
        The buffer; None where the devices cannot write into each other's memory.
    """
    if not all_agree(_has_peer_access(group, device), group, device):
        return None
    buffer = _allocate(group, capacity, device)
    return buffer if all_agree(buffer is not None, group, device) else None


def _has_peer_access(group: ProcessGroup, device: torch.device) -> bool:
    """Whether all ranks are GPUs of this machine that reach each other."""
    ranks = distributed.get_process_group_ranks(group)
    here = world().local_size
    if device.type != "cuda" or len({rank // here for rank in ranks}) > 1:
        return False
    others = [rank % here for rank in ranks if rank % here != device.index]
    reachable = range(torch.cuda.device_count())
    return all(other in reachable and torch.cuda.can_device_access_peer(device, other) for other in others)


def _allocate(group: ProcessGroup, capacity: int, device: torch.device) -> SymmetricBuffer | None:
    """Plain peer access through torch's symmetric memory."""
    try:
        symmetric = symmetric_memory()
        rank, count = distributed.get_rank(group), distributed.get_world_size(group)
        slots = symmetric.empty(2, count, capacity, dtype=torch.int64, device=device)
        slots.zero_()
        buffers = symmetric.rendezvous(slots, group.group_name).buffer_ptrs
        offset = slots.data_ptr() - buffers[rank]  # the same on all ranks
        addresses = torch.tensor([begin + offset for begin in buffers], device=device)
        torch.cuda.synchronize(device)  # zero before a peer writes: the all-reduce that follows is a barrier
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        logger.info("GPUs cannot share memory, sums go through NCCL: %s", error)
        return None
    return SymmetricBuffer(slots, addresses, torch.zeros(1, dtype=torch.int64, device=device), rank)
