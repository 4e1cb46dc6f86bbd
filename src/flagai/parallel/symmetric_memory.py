"""Memory of each device of a group that all of its devices write into: how kernels hand each other small sums."""

import logging
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from flagai.parallel.world import world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inbox:
    """Where the ranks of a group leave numbers for each other.

    A word is a number and the stamp of the sum that it belongs to, in 8 bytes that arrive together; so a reader waits
    for the stamp and needs no other signal. There are two pages, written in turn: who writes page 0 again has read
    page 1, which nobody wrote before having read page 0.

    Args:
        words: of this rank, zero at first; [2 pages, count, room].
        places: the addresses of the words of all ranks, on the device, [count].
        clock: the number of the step, on the device, [1]; the same on all ranks.
        rank: the place of this rank in the group.
    """

    words: torch.Tensor
    places: torch.Tensor
    clock: torch.Tensor
    rank: int

    def __deepcopy__(self, _: object) -> "Inbox":
        """Copies of a model meet in the same place: it is an address that others know."""
        return self

    @property
    def count(self) -> int:
        """How many ranks there are."""
        return self.words.shape[1]

    @property
    def room(self) -> int:
        """How many words a rank may leave on a page."""
        return self.words.shape[2]


def connect(group: ProcessGroup, room: int, device: torch.device) -> Inbox | None:
    """Give each rank of a group an inbox; all call it together, and all or none get one.

    Args:
        group: the ranks.
        room: how many words a rank may leave at once.
        device: this rank's device.

    Returns:
        The inbox; None where the devices cannot write into each other's memory.
    """
    found = _shared(group, room, device) if _agreed(_neighbours(group, device), group, device) else None
    return found if _agreed(found is not None, group, device) else None


def _agreed(good: bool, group: ProcessGroup, device: torch.device) -> bool:
    vote = torch.tensor(int(good), device=device)
    distributed.all_reduce(vote, op=distributed.ReduceOp.MIN, group=group)
    return bool(vote)


def _neighbours(group: ProcessGroup, device: torch.device) -> bool:
    """Whether all ranks are GPUs of this machine that reach each other."""
    ranks = distributed.get_process_group_ranks(group)
    here = world().local_size
    if device.type != "cuda" or len({rank // here for rank in ranks}) > 1:
        return False
    others = [rank % here for rank in ranks if rank % here != device.index]
    reachable = range(torch.cuda.device_count())
    return all(other in reachable and torch.cuda.can_device_access_peer(device, other) for other in others)


def _shared(group: ProcessGroup, room: int, device: torch.device) -> Inbox | None:
    """Plain peer access through torch's symmetric memory."""
    try:
        from torch.distributed import _symmetric_memory as symmetric

        rank, count = distributed.get_rank(group), distributed.get_world_size(group)
        words = symmetric.empty(2, count, room, dtype=torch.int64, device=device)
        words.zero_()
        buffers = symmetric.rendezvous(words, group.group_name).buffer_ptrs
        inside = words.data_ptr() - buffers[rank]  # the same on all ranks
        places = torch.tensor([begin + inside for begin in buffers], device=device)
        torch.cuda.synchronize(device)  # zero before anybody writes: the vote that follows is a barrier
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        logger.info("GPUs cannot share memory, sums go through NCCL: %s", error)
        return None
    return Inbox(words, places, torch.zeros(1, dtype=torch.int64, device=device), rank)
