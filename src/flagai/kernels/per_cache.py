"""What implementations of :func:`~flagai.model.block.stack.cached_blocks` keep of the blocks from step to step."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from operator import attrgetter, contains
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from flagai.model.layer.cache import KVCache
from flagai.model.layer.paged_cache import PagedStep
from flagai.model.layer.sdpa import AttentionMask
from flagai.parallel.dtensor import is_sharded

# Computes a stack: (hidden states, mask, cache, **cross) -> hidden states.
Stack = Callable[..., torch.Tensor]


class _State:
    """What a stack of blocks consists of, to tell whether it is still the same.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        modules = list(blocks.modules())
        self._blocks = blocks
        self._attributes = [vars(module) for module in modules]
        self._hooks = [hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        members: Iterable[dict[str, Any]] = (
            each for module in modules for each in (module._modules, module._parameters, module._buffers)
        )
        self._members = [each for each in members if each]
        # Keeps the members alive, so that no other object gets their ids.
        self._seen = list(chain.from_iterable(map(dict.values, self._members)))
        # A distributed tensor has no memory of its own.
        self._tensors = [each for each in self._seen if isinstance(each, torch.Tensor) and not is_sharded(each)]
        self._now = self._read()

    def _read(self) -> tuple[Any, ...]:
        hooked = any(self._hooks) or any(map(contains, self._attributes, repeat("forward")))
        training = any(map(attrgetter("training"), self._blocks))
        ids = list(map(id, chain.from_iterable(map(dict.values, self._members))))
        return hooked, training, ids, list(map(torch.Tensor.data_ptr, self._tensors))

    def is_of(self, blocks: nn.ModuleList) -> bool:
        """Whether these blocks have the same modules, parameters and memory, and hooks as before or none."""
        return blocks is self._blocks and self._read() == self._now


class _Made(NamedTuple):
    state: _State
    stacks: dict[int, Stack | None]


class PerCache:
    """What an implementation of :func:`cached_blocks` makes of the blocks: once for each pool and number of rows.

    Hooks, parameters and modules that change between two steps count from the next step on.

    Args:
        make: computes the blocks for hidden states like these; None if it does not take them.
    """

    def __init__(self, make: Callable[[nn.ModuleList, torch.Tensor], Stack | None]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[object, _Made] = WeakKeyDictionary()

    def suits(
        self, blocks: nn.ModuleList, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any
    ) -> bool:
        """Whether it computes the blocks over this cache; none computes rotary positions."""
        if cross.get("rotation") is not None:
            return False
        made, rows = self._made.get(_pool(cache)), hidden.shape[:-1].numel()
        if made is None or not made.state.is_of(blocks):
            made = self._made[_pool(cache)] = _Made(_State(blocks), {})
        if rows not in made.stacks:
            made.stacks[rows] = self._make(blocks, hidden)
        return made.stacks[rows] is not None

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> torch.Tensor:
        """Compute the blocks; see :func:`cached_blocks`."""
        stack = self._made[_pool(cache)].stacks[hidden.shape[:-1].numel()]
        return cast(Stack, stack)(hidden, attn_mask, cache, **cross)


def _pool(cache: KVCache) -> object:
    """The object that lasts from step to step."""
    return cache.pool if isinstance(cache, PagedStep) else cache


class OneByOne:
    """A stack of blocks that are computed one after the other.

    Args:
        blocks: what computes each of them.
    """

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks = blocks

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: KVCache, **cross: Any) -> torch.Tensor:
        """[B, W, width] -> [B, W, width]."""
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, attn_mask, cache=cache.layer(index), **cross)
        return hidden
