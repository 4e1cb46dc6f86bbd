"""How many keys and values there is memory for, and who has them."""

from typing import Any

import torch

from flagai.errors import InputError
from flagai.generation.blocks import BLOCK, BlockPool
from flagai.generation.protocol import GenerativeModel, decoder_blocks
from flagai.model.layer.paged_cache import PagedCache
from flagai.parallel.dtensor import local
from flagai.system import memory_bytes

# The share of the free memory that keys and values may take: the rest is for the calls of the model.
_SHARE = {"cuda": 0.85, "cpu": 0.5}
# A pool that was too small grows by so much at least.
_GROWTH = 1.5
# Blocks of the smallest pool.
_FEWEST = 64


class CacheMemory:
    """The paged cache of a model, and its free blocks; it grows up to a limit.

    Args:
        model: the model.
        limit: the most bytes; default a share of what is free now.

    Raises:
        InputError: the limit does not hold a single block.
    """

    def __init__(self, model: GenerativeModel, limit: int | None) -> None:
        self.limit = limit
        self.bytes_per_block = BLOCK * bytes_per_token(model)
        found = free_bytes(next(model.parameters()).device) if limit is None else limit
        most = found // self.bytes_per_block
        self.most_blocks = most if model.sharding is None else model.sharding.least(most)
        if self.most_blocks < 2:
            raise InputError(
                f"memory={found} bytes hold no block of keys and values; one takes {self.bytes_per_block}, "
                "and one more is kept free. Give more."
            )
        self.pool = PagedCache(model.new_cache().num_layers, 0)
        self.blocks = BlockPool(0)
        self.version = 0  # changes whenever the pool lies elsewhere

    @property
    def is_free(self) -> bool:
        """Whether no request has a block."""
        return self.blocks.num_free == self.blocks.num_blocks - 1

    def expect(self, count: int) -> None:
        """Make room for so many blocks in use at once, as far as the limit allows.

        Args:
            count: how many blocks all requests of a call will need at most.
        """
        if count > self.blocks.num_free:
            self._grow(self.blocks.num_blocks + count - self.blocks.num_free)

    def take(self, count: int) -> list[int] | None:
        """Hand out blocks; None if there are not so many.

        Args:
            count: how many.
        """
        if count > self.blocks.num_free:
            missing = count - self.blocks.num_free
            self._grow(max(self.blocks.num_blocks + missing, int(self.blocks.num_blocks * _GROWTH)))
        return self.blocks.take(count)

    def free_all(self) -> None:
        """Take all blocks back."""
        self.blocks = BlockPool(self.blocks.num_blocks)

    def _grow(self, num_blocks: int) -> None:
        num_blocks = min(_rounded(num_blocks + 1), self.most_blocks)  # one has the scratch slot
        if num_blocks > self.blocks.num_blocks:
            self.version += 1
            self.pool.grow(num_blocks * BLOCK)
            self.blocks.grow(num_blocks)


def _rounded(count: int) -> int:
    """A number of blocks of which there are few: a cache that grows is captured anew."""
    step = 1 << max(count.bit_length() - 5, 0)
    return max(-(-count // step) * step, _FEWEST)


def bytes_per_token(model: GenerativeModel) -> int:
    """Bytes of the keys and values of one token in all layers, on this rank."""
    stack = decoder_blocks(model)
    attention: Any = stack[0].attention
    size = local(next(model.parameters())).element_size()
    return 2 * len(stack) * _outputs(attention.k) * size


def _outputs(layer: Any) -> int:
    """Features that this rank computes."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.is_floating_point():
        return len(local(weight))
    return int(layer.out_features)


def free_bytes(device: torch.device) -> int:
    """The bytes that keys and values may take by default."""
    if device.type not in ("cpu", "mps"):  # Apple's share the machine's memory
        module = torch.get_device_module(device)
        free, _ = module.mem_get_info(device)
        cached = module.memory_reserved(device) - module.memory_allocated(device)
        return int(_SHARE["cuda"] * (free + cached))
    return int(_SHARE["cpu"] * memory_bytes())
