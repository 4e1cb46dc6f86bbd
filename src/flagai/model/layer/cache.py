"""Keys and values of past positions, outside the model and preallocated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from flagai.model.layer.sdpa import AttentionMask

# Buffers grow in steps of this many positions at least.
_STEP = 64


@dataclass
class _Watermark:
    """How far the shared buffers of some branches have been written."""

    length: int = 0


class KVCache:
    """The keys and values of every decoder layer for the positions seen so far.

    Buffers are allocated at the first use for ``capacity`` positions and grow by doubling if that was too few.
    While gradients are recorded, tensors are concatenated instead of written in place, so memories carry gradients:
    decode under ``torch.inference_mode()``.

    Args:
        num_layers: number of layers.
        capacity: how many positions to make room for.
    """

    # What the tokens of a call attend to, where the cache says it and not the model's arguments.
    attn_mask: "AttentionMask | None" = None
    cross_mask: "AttentionMask | None" = None

    def __init__(self, num_layers: int, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: list[torch.Tensor | None] = [None] * num_layers
        self._values: list[torch.Tensor | None] = [None] * num_layers
        self._cross: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * num_layers
        self._valid: torch.Tensor | None = None
        self._positions: torch.Tensor | None = None
        self.memory_mask: torch.Tensor | None = None  # real tokens of the encoder's text, [B, K]
        self._watermark = _Watermark()

    @property
    def num_layers(self) -> int:
        """The number of decoder layers."""
        return len(self._keys)

    def layer(self, index: int) -> "LayerCache":
        """The part of the cache that one layer uses."""
        return LayerCache(self, index)

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new positions to a layer and return all of them.

        Shape:
            two of [B, H, Q, D] -> two of [B, H, length + Q, D]
        """
        self._keys[index] = self._extended(self._keys[index], key)
        self._values[index] = self._extended(self._values[index], value)
        end = self.length + key.shape[2]
        return self._keys[index][:, :, :end], self._values[index][:, :, :end]  # type: ignore[index]

    def _extended(self, buffer: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        end = self.length + new.shape[2]
        if torch.is_grad_enabled():
            return new if buffer is None else torch.cat([buffer[:, :, : self.length], new], dim=2)
        taken = self._watermark.length > self.length
        if buffer is None or taken or buffer.shape[2] < end:
            buffer = self._moved(buffer, new, end)
        buffer[:, :, self.length : end] = new
        return buffer

    def _moved(self, buffer: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
        """A new buffer with the past in it and room for ``end`` positions."""
        present = self.capacity if buffer is None else buffer.shape[2]
        room = present if end <= present else 2 * end
        room = -(-room // _STEP) * _STEP
        larger = new.new_empty(*new.shape[:2], room, new.shape[3])
        if buffer is not None:
            larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger

    def cross(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A layer's keys and values of the encoder's output, once they have been kept."""
        return self._cross[index]

    def advance(self, count: int) -> None:
        """Count positions that every layer has appended."""
        if self._watermark.length > self.length:  # another branch wrote on: the buffers are our own copies now
            self._watermark = _Watermark()
        self.length += count
        self._watermark.length = self.length

    def valid(self, new: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """Remember which of the new positions are real tokens, and say it for all positions.

        Args:
            new: True at real tokens, [B, count], or [B, length + count] to say it anew; None if all are real.
            count: number of new positions.

        Returns:
            [B, length + count], or None while no padding has been seen.
        """
        if new is None and self._valid is None:
            return None
        if new is None:
            new = self._valid.new_ones(len(self._valid), count)  # type: ignore[union-attr,arg-type]
        if new.shape[1] == count and self.length:
            past = new.new_ones(len(new), self.length) if self._valid is None else self._valid[:, : self.length]
            new = torch.cat([past, new], dim=1)
        self._valid = new
        return new

    def positions(self, new: torch.Tensor) -> torch.Tensor:
        """Remember where the new tokens stand, and say it for all tokens.

        Needed where the order in the cache is not the order in the text, as with several continuations of one text.

        Args:
            new: [B or 1, count], or [B or 1, count, N] where a token has N positions; every call since the cache was
                empty must have said its own.

        Returns:
            [B or 1, length + count] or [B or 1, length + count, N]
        """
        past = self.known_positions
        self._positions = new if past is None else torch.cat([past.expand(len(new), *past.shape[1:]), new], dim=1)
        return self._positions

    @property
    def known_positions(self) -> torch.Tensor | None:
        """Where the cached tokens stand, as :meth:`positions` was told; None if it was not."""
        return None if self._positions is None else self._positions[:, : self.length]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may occur several times (beams).

        Args:
            rows: indices, [new B].
        """
        self._keys = [None if tensor is None else tensor.index_select(0, rows) for tensor in self._keys]
        self._values = [None if tensor is None else tensor.index_select(0, rows) for tensor in self._values]
        self._cross = [
            None if pair is None else (pair[0].index_select(0, rows), pair[1].index_select(0, rows))
            for pair in self._cross
        ]
        self._valid = None if self._valid is None else self._valid.index_select(0, rows)
        if self._positions is not None and len(self._positions) > 1:
            self._positions = self._positions.index_select(0, rows)
        self.memory_mask = None if self.memory_mask is None else self.memory_mask.index_select(0, rows)
        self._watermark = _Watermark(self.length)

    def crop(self, length: int) -> None:
        """Forget every position from ``length`` on."""
        self.length = min(self.length, length)
        if self._valid is not None:
            self._valid = self._valid[:, : self.length]

    def fork(self, detach: bool = False) -> "KVCache":
        """A second cache with the same past; both may go on, the buffers are copied only when they must.

        Args:
            detach: cut the past off from the gradient.
        """
        other = KVCache(len(self._keys), self.capacity)
        other.__dict__.update(self.__dict__)
        other._keys = [None if tensor is None else tensor.detach() if detach else tensor for tensor in self._keys]
        other._values = [None if tensor is None else tensor.detach() if detach else tensor for tensor in self._values]
        other._cross = list(self._cross)
        return other


@dataclass(frozen=True)
class LayerCache:
    """What one attention layer sees of a :class:`KVCache`."""

    cache: KVCache
    index: int

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`KVCache.append`."""
        return self.cache.append(self.index, key, value)

    @property
    def cross(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values of the encoder's output, once they have been kept."""
        return self.cache.cross(self.index)

    def keep_cross(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the keys and values of the encoder's output for later steps."""
        self.cache._cross[self.index] = (key, value)
