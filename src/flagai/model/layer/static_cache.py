"""A cache whose tensors never move or change their shape, for work that is recorded once and replayed."""

import torch

from flagai.errors import InputError
from flagai.model.layer.cache import KVCache

_ROUND = 64


class StaticCache(KVCache):
    """Keys and values in buffers of full capacity; where the next ones go, a tensor says.

    Layers get all slots back, written or not. A call's matrix must hide those that have not been written and what comes
    later, and let each position see itself at least; nothing is joined to it. Slots that have not been written hold
    zeros. :attr:`length` is such that the slots before it and the new positions make up the capacity; so the last
    ``lanes`` slots are never used.

    Args:
        like: a cache whose layers have been written once: says how many rows, heads and features there are.
        capacity: number of slots.
        lanes: how many positions each call adds.
        memory: number of slots for the encoder's text; 0 for none.
    """

    mask_is_complete = True

    def __init__(self, like: KVCache, capacity: int, lanes: int, memory: int = 0) -> None:
        super().__init__(len(like._keys), capacity)
        self.length = capacity - lanes
        self._keys = [None if tensor is None else _roomy(tensor, capacity) for tensor in like._keys]
        self._values = [None if tensor is None else _roomy(tensor, capacity) for tensor in like._values]
        device = next(tensor.device for tensor in self._keys if tensor is not None)
        rows = next(len(tensor) for tensor in self._keys if tensor is not None)
        self.write_index = torch.arange(
            lanes, device=device
        )  # the slots of a call's positions: of the next one, between calls
        self._valid = torch.ones(rows, capacity, dtype=torch.bool, device=device)
        self._positions = None if like._positions is None else like._positions.new_zeros(len(like._positions), capacity)
        if memory:
            self._cross = [
                None if pair is None else (_roomy(pair[0], memory), _roomy(pair[1], memory)) for pair in like._cross
            ]
            self.memory_mask = torch.zeros(rows, memory, dtype=torch.bool, device=device)

    @torch.inference_mode()
    def load(self, other: KVCache) -> None:
        """Take over what an ordinary cache holds."""
        length = other.length
        for mine, theirs in zip([*self._keys, *self._values], [*other._keys, *other._values], strict=True):
            if mine is not None and theirs is not None:
                mine[:, :, :length] = theirs[:, :, :length]
                mine[:, :, length:] = 0
        self.go_to(length)
        if self._valid is not None:
            self._valid.fill_(True)
            if other._valid is not None:
                self._valid[:, :length] = other._valid[:, :length]
        if self._positions is not None and other._positions is not None:
            self._positions[:, :length] = other._positions[:, :length]
        if self.memory_mask is not None:
            self._load_memory(other, self.memory_mask)

    def go_to(self, slot: int) -> None:
        """Let the next call's positions go to the slots from here on."""
        torch.arange(slot, slot + len(self.write_index), out=self.write_index)

    def _load_memory(self, other: KVCache, mask: torch.Tensor) -> None:
        count = 0
        for mine, theirs in zip(self._cross, other._cross, strict=True):
            if mine is not None and theirs is not None:
                count = theirs[0].shape[2]
                for ours, new in zip(mine, theirs, strict=True):
                    ours[:, :, :count] = new
                    ours[:, :, count:] = 0
        mask[:, :count] = True if other.memory_mask is None else other.memory_mask.bool()
        mask[:, count:] = False

    def buffers(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, two of [B, H, capacity, D]."""
        keys, values = self._keys[index], self._values[index]
        if keys is None or values is None:
            raise InputError(f"Layer {index} has written nothing into the cache that this one was made like.")
        return keys, values

    def slots(self, count: int, device: torch.device) -> torch.Tensor:
        """See the base class."""
        return self.write_index[:count]

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class; returns all slots."""
        keys, values = self.buffers(index)
        return keys.index_copy_(2, self.write_index, key), values.index_copy_(2, self.write_index, value)

    def advance(self, count: int) -> None:
        """See the base class."""
        self.write_index.add_(count)

    def rollback(self, count: torch.Tensor) -> None:
        """See the base class."""
        self.write_index.sub_(count)

    def valid(self, new: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """See the base class; of all slots, [B, capacity]."""
        if new is not None and self._valid is not None:
            self._valid.index_copy_(1, self.write_index, new.expand(len(self._valid), -1))
        return self._valid

    def positions(self, new: torch.Tensor) -> torch.Tensor:
        """See the base class; of all slots, [B or 1, capacity]."""
        if self._positions is None:
            raise InputError("This cache was made like one that knows no positions.")
        return self._positions.index_copy_(1, self.write_index, new)


def bucket(size: int) -> int:
    """The least capacity of at least ``size``: powers of two and the halves between them, from 128 on.

    Few different capacities mean few recordings.
    """
    room = 2 * _ROUND
    while room < size:
        room *= 2
    return room * 3 // 4 if room > 2 * _ROUND and room * 3 // 4 >= size else room


def _roomy(like: torch.Tensor, capacity: int) -> torch.Tensor:
    """Zeros for as many rows, heads and features, but ``capacity`` positions."""
    return like.new_zeros(*like.shape[:2], capacity, like.shape[3])
