"""Keys and values of many texts in one pool of slots, of which every text has as many as it needs.

Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention".
"""

from dataclasses import dataclass, field
from threading import Lock

import torch

from flagai.errors import InputError
from flagai.model.layer.cache import KVCache
from flagai.model.layer.sdpa import AttentionMask

# The slot of tokens that no text has: those that fill up a batch, and padding.
SCRATCH = 0
_CREATING = Lock()


class PagedCache:
    """A pool of slots; a slot has the keys and values of one token in every layer.

    The first call that writes decides type, heads and device.

    Args:
        num_layers: number of layers.
        num_slots: number of slots.
    """

    def __init__(self, num_layers: int, num_slots: int) -> None:
        self.num_slots = num_slots
        self.keys: list[torch.Tensor | None] = [None] * num_layers
        self.values: list[torch.Tensor | None] = [None] * num_layers

    def write(self, index: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put keys and values of a layer into slots.

        Args:
            index: the layer.
            slots: [T]
            key: [T, H, D]
            value: [T, H, D]
        """
        if self.values[index] is None:
            with _CREATING:  # kernels are compiled by calls of another thread
                if self.values[index] is None:
                    # Zeros: no slot holds NaN, which a mask would not take out of a sum.
                    self.keys[index] = key.new_zeros(self.num_slots, *key.shape[1:])
                    self.values[index] = value.new_zeros(self.num_slots, *value.shape[1:])
        keys, values = self.layer(index)
        keys.index_copy_(0, slots, key)
        values.index_copy_(0, slots, value)

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of a layer, two of [slots, H, D].

        Raises:
            InputError: nothing has been written yet.
        """
        keys, values = self.keys[index], self.values[index]
        if keys is None or values is None:
            raise InputError(f"Layer {index} of the cache is empty: read a prompt first.")
        return keys, values

    def grow(self, num_slots: int) -> None:
        """Make room for more slots; layer by layer, so that only one is there twice."""
        self.num_slots = num_slots
        for tensors in (self.keys, self.values):
            for index, tensor in enumerate(tensors):
                if tensor is not None:
                    larger = tensor.new_zeros(num_slots, *tensor.shape[1:])
                    larger[: len(tensor)] = tensor
                    tensors[index] = larger

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(tensor.nbytes for tensor in [*self.keys, *self.values] if tensor is not None)


@dataclass(eq=False)
class PagedStep(KVCache):
    """A pool as one call of a model sees it: where its tokens go, and what they attend to.

    Args:
        pool: the cache.
        slot_mapping: the slot of each new token, [T].
        attn_mask: what each new token attends to: texts that are packed in the call, or a slot table.
        cross_mask: the slots of the encoder's output, for decoders that attend to one.
        past: the slots of earlier tokens of the call's one text, to which they attend, too, [P].
    """

    pool: PagedCache
    slot_mapping: torch.Tensor
    attn_mask: AttentionMask
    cross_mask: AttentionMask | None = None
    past: torch.Tensor | None = None
    length: int = field(default=0, init=False)

    @property
    def num_layers(self) -> int:
        """The number of decoder layers."""
        return len(self.pool.keys)

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values, two of [1, H, T, D], into their slots.

        Returns:
            The pool where the call attends by a slot table, two of [slots, H, D]; else the keys and values, behind
            those of the past.
        """
        self.pool.write(index, self.slot_mapping, key[0].transpose(0, 1), value[0].transpose(0, 1))
        if self.attn_mask.table is not None:
            return self.pool.layer(index)
        if self.past is None:
            return key, value
        keys, values = (part[self.past].transpose(0, 1)[None] for part in self.pool.layer(index))
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)

    def advance(self, count: int) -> None:
        """Nothing: the caller counts."""

    def valid(self, new: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """None: slot tables leave padding out."""

    def cross(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The pool, in which the encoder's output has slots of its own."""
        return None if self.cross_mask is None else self.pool.layer(index)
