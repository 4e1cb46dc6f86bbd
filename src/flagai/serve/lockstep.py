"""Ranks that share a model by tensor parallelism do the same at every iteration: the first one says what."""

from collections.abc import Sequence
from typing import Any, Self

from torch import distributed

from flagai.serve.work import Order

# Ranks that wait for longer than the process group allows would end: the first one calls them once in a while.
_PATIENCE = 60.0


class Lockstep:
    """The ranks that share a model; by default, only this process.

    Args:
        group: the processes, connected by gloo; None for this one alone.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group

    @classmethod
    def of_ranks(cls) -> Self:
        """All processes that torchrun started; every one of them calls this."""
        return cls(distributed.new_group(backend="gloo"))

    @property
    def patience(self) -> float | None:
        """How many seconds an idle engine may wait; None for ever."""
        return None if self._group is None else _PATIENCE

    def share(self, orders: Sequence[Order]) -> None:
        """Send all other ranks what is to be done; what only concerns the front is left out."""
        if self._group is not None:
            plain = [order[:4] if order[0] == "call" else order for order in orders]
            distributed.broadcast_object_list([plain], src=0, group=self._group)

    def receive(self) -> list[Order]:
        """What the first rank shares."""
        found: list[Any] = [None]
        distributed.broadcast_object_list(found, src=0, group=self._group)
        orders: list[Order] = found[0]
        return orders
