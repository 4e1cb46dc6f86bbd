"""Decoding by replay: the captured steps of each model, kept with their cache for the next requests."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, Protocol

import torch
from torch import nn

from flagai.families.family import DecodingProtocol
from flagai.generation.batch import SearchBatch, Searches
from flagai.generation.forward import PromptTokens, adapters_of_texts, read_prompts, step_forward
from flagai.generation.memory import CacheMemory
from flagai.generation.protocol import decoder_blocks
from flagai.generation.replay import cuda_graph
from flagai.generation.replay.compile_ahead import BackgroundCompile
from flagai.generation.replay.forward import Addresses, CapturedForward, ForwardKey, patience_of
from flagai.generation.replay.prompts import CapturedPrompts, PromptKey, most_tokens
from flagai.generation.replay.search_step import CapturedSearchStep
from flagai.generation.request import Request
from flagai.generation.rows import Sizes
from flagai.generation.sampling import ShardedGreedySearch
from flagai.generation.search import Search, search_step
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.model.block.stack import prepare_decoding
from flagai.model.layer.adapted import adapter_names, merged_adapter
from flagai.model.layer.kernel_choice import is_hooked, jit_kernels

# Texts of a batch whose steps are captured: rows between them stay empty.
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Other sizes are rounded up to multiples of this.
_ROUND = 128
# How many captured forward passes, and empty batches, a model keeps ready.
KEPT = 24
# The share of a GPU's memory that a cache may take between two calls.
_KEPT_SHARE = 1 / 8


class Steps(Searches, Protocol):
    """How steps are run."""

    memory: CacheMemory

    def read(self, model: Any, protocol: DecodingProtocol, prompts: PromptTokens) -> None:
        """Run the model over prompts."""

    def run(self, model: Any, batches: Sequence[SearchBatch]) -> None:
        """Run one step of every text."""


class EagerSteps:
    """Steps that are run as they are.

    Args:
        memory: the cache.
    """

    def __init__(self, memory: CacheMemory) -> None:
        self.memory = memory

    def rounded(self, sizes: Sizes) -> Sizes:
        """See :class:`Searches`."""
        return sizes

    def search(self, key: Hashable, sizes: Sizes, make: Callable[[Sizes], Search]) -> Search:
        """See :class:`Searches`."""
        return make(sizes)

    def release(self, key: Hashable, search: Search) -> None:
        """See :class:`Searches`."""

    def read(self, model: Any, protocol: DecodingProtocol, prompts: PromptTokens) -> None:
        """See :class:`Steps`."""
        read_prompts(model, protocol, self.memory.pool, prompts)

    def run(self, model: Any, batches: Sequence[SearchBatch]) -> None:
        """See :class:`Steps`."""
        searches = [batch.search for batch in batches]
        inputs = StepInputs.cat([search.state.inputs() for search in searches])
        if inputs.ids.device.type == "cpu":
            inputs = inputs.trimmed()
        with adapters_of_texts(_requests(searches), inputs.ids.device):
            output = step_forward(
                model, searches[0].state.protocol, self.memory.pool, inputs, sharded=_stays_sharded(searches)
            )
        for search, own in zip(searches, _parts(output, searches), strict=True):
            search_step(search, own)


class CapturedSteps:
    """Steps that are captured as CUDA graphs, one for each size.

    Args:
        memory: the cache.
        addresses: of the model's parameters.
        device: the GPU.
    """

    def __init__(self, memory: CacheMemory, addresses: Addresses, device: torch.device) -> None:
        self.memory = memory
        self.addresses = addresses
        self.recorder = cuda_graph.recorder_for(device)
        self.forwards: OrderedDict[ForwardKey, CapturedForward] = OrderedDict()
        self.compiling: dict[Hashable, BackgroundCompile] = {}  # kernels of the searches' steps
        self._idle: OrderedDict[tuple[Hashable, Sizes], Search] = OrderedDict()
        self._captured: weakref.WeakKeyDictionary[Search, CapturedSearchStep] = weakref.WeakKeyDictionary()
        self.prompts: dict[PromptKey, CapturedPrompts] = {}
        self._jit = False  # whether the kernels of steps have been compiled
        self._pool_version = memory.version
        # Closing a process group that graphs still use would never return.
        weakref.finalize(self, self.forwards.clear)

    def rounded(self, sizes: Sizes) -> Sizes:
        """See :class:`Steps`: few different ones."""

        def up(size: int) -> int:
            return -(-size // _ROUND) * _ROUND

        rows = next((each for each in _ROWS if each >= sizes.rows), sizes.rows)
        return Sizes(rows, sizes.lanes, up(sizes.text), up(sizes.steps), up(sizes.table), sizes.blanks, up(sizes.cross))

    def search(self, key: Hashable, sizes: Sizes, make: Callable[[Sizes], Search]) -> Search:
        """See :class:`Steps`."""
        found = self._idle.pop((key, sizes), None) or make(sizes)
        found.state.captured = True
        return found

    def release(self, key: Hashable, search: Search) -> None:
        """See :class:`Steps`."""
        if key is not None and search in self._captured:
            self._idle[key, search.sizes] = search
            while len(self._idle) > KEPT:
                self._idle.popitem(last=False)

    def read(self, model: Any, protocol: DecodingProtocol, prompts: PromptTokens) -> None:
        """See :class:`Steps`; with the kernels of steps, once it is known that they can be compiled."""
        self._jit = self._jit or any(forward.kernels for forward in self.forwards.values())
        self._forget_old_pool()
        key = PromptKey.of(protocol, prompts, most_tokens(model), jit=self._jit)
        # The first call makes the pool, and ranks wait for each other.
        if key is None or self.memory.pool.values[0] is None or model.sharding is not None:
            with jit_kernels(self._jit):
                read_prompts(model, protocol, self.memory.pool, prompts)
            return
        if key not in self.prompts:
            self.prompts[key] = CapturedPrompts(model, key, self.memory.pool, self.recorder)
        self.prompts[key].read(prompts)

    def run(self, model: Any, batches: Sequence[SearchBatch]) -> None:
        """See :class:`Steps`."""
        searches = [batch.search for batch in batches]
        forward = self._forward(model, searches)
        captured = self._captured.get(searches[0]) if len(searches) == 1 else None
        if captured is not None and captured.forward is not forward:
            captured = None
        if captured is None or searches[0].changed:
            for part in (part for search in searches for part in search.parts()):
                part.settle()
            if captured is None:
                inputs = StepInputs.cat([search.state.inputs() for search in searches])
                if len(inputs.ids) < forward.key.tokens:
                    forward.inputs.clear()
                forward.inputs.put(inputs)
            else:
                captured.feed()
            searches[0].changed = False
        parts = _parts(forward.run(), searches)
        if captured is None and len(searches) == 1 and searches[0].recordable:
            captured = CapturedSearchStep(searches[0], forward, parts[0], self.recorder, self.compiling)
            self._captured[searches[0]] = captured
        if captured is not None:
            captured()
            return
        for search, own in zip(searches, parts, strict=True):
            search_step(search, own)
            search.changed = True

    def _forget_old_pool(self) -> None:
        """Capture anew when the cache has grown: it lies elsewhere."""
        if self._pool_version != self.memory.version:
            self.forwards.clear()
            self.prompts.clear()
            self._pool_version = self.memory.version

    def _forward(self, model: Any, searches: Sequence[Search]) -> CapturedForward:
        self._forget_old_pool()
        count = sum(search.state.next_ids.numel() for search in searches)
        if len(searches) > 1:
            count = next((each for each in _ROWS if each >= count), count)
        protocol = searches[0].state.protocol
        key = ForwardKey(
            protocol if protocol.encoder else replace(protocol, spans=False, starts=False, prefix=False),
            count,
            max(search.sizes.table for search in searches),
            max(search.sizes.cross for search in searches),
            _stays_sharded(searches),
            searches[0].state.next_ids.shape[1] if len(searches) == 1 else 1,
        )
        found = self.forwards.pop(key, None)
        if found is None:
            found = CapturedForward(model, key, self.memory.pool, self.recorder, patience_of(model))
        self.forwards[key] = found
        while len(self.forwards) > KEPT:
            self.forwards.popitem(last=False)
        return found


def _stays_sharded(searches: Sequence[Search]) -> bool:
    return all(isinstance(search, ShardedGreedySearch) for search in searches)


def _requests(searches: Sequence[Search]) -> Iterator[tuple[Request | None, int]]:
    """The texts of the rows, and how many tokens each has in a step."""
    for search in searches:
        lanes = search.state.next_ids.shape[1]
        yield from ((None if text is None else text.request, lanes) for text in search.texts)


def _parts(output: StepOutput, searches: Sequence[Search]) -> list[StepOutput]:
    """The output of each search's tokens, [R, W, ...]."""
    parts, begin = [], 0
    for search in searches:
        end = begin + search.state.next_ids.numel()
        own = (each[begin:end].unflatten(0, (search.sizes.rows, -1)) for each in (output.logits, output.hidden))
        parts.append(StepOutput(*own))
        begin = end
    return parts


_IDLE: "weakref.WeakKeyDictionary[nn.Module, list[CapturedSteps]]" = weakref.WeakKeyDictionary()
_TAKING = Lock()


@contextmanager
def steps_of(model: Any, memory: int | None, *, graphs: bool) -> Iterator[Steps]:
    """How steps of a model are run, for one scheduler at a time.

    Args:
        model: the model.
        memory: the most bytes of keys and values.
        graphs: whether steps may be captured.
    """
    device = next(model.parameters()).device
    if not _is_recordable(model, device, graphs):
        yield EagerSteps(CacheMemory(model, memory))
        return
    addresses = Addresses.of(model)
    found = _take(model, addresses, memory)
    if model.sharding is not None and not model.sharding.all_agree(found is not None):
        found = None  # all ranks begin anew where one has to
    if found is None:
        prepare_decoding(decoder_blocks(model))  # may move parameters
        found = CapturedSteps(CacheMemory(model, memory), Addresses.of(model), device)
    yield found
    # Not after an error: what has been captured, and who has which block, is not known then.
    if found.memory.is_free and found.memory.pool.nbytes <= _KEPT_SHARE * _total_bytes(device):
        with _TAKING:
            _IDLE.setdefault(model, []).append(found)


def captured_steps(model: Any) -> list[CapturedSteps]:
    """The captured steps of a model that no scheduler uses now; a copy of a model begins without any."""
    return _IDLE.get(model, [])


def _take(model: Any, addresses: Addresses, memory: int | None) -> CapturedSteps | None:
    with _TAKING:
        idle = _IDLE.get(model, [])
        # Those that read parameters at addresses of before will never fit again.
        idle[:] = [each for each in idle if each.addresses == addresses]
        found = next((each for each in idle if each.memory.limit == memory), None)
        if found is not None:
            idle.remove(found)
        return found


def _is_recordable(model: Any, device: torch.device, wish: bool) -> bool:
    """Whether steps can be captured; ranks that share a model must all replay or all not: they vote."""
    sharding = model.sharding
    wish = (
        wish
        and cuda_graph.can_record(device)
        # FSDP gathers parameters into new memory at every step.
        and (sharding is None or sharding.fsdp is None)
        # A replay runs no hooks, and goes on doing what a hook did that has been removed since.
        and not any(map(is_hooked, model.modules()))
        and not torch.is_autocast_enabled(device.type)
        # Which token has which adapter changes from step to step. A merged one is part of the weights.
        and (not adapter_names(model) or merged_adapter(model) is not None)
    )
    return wish if sharding is None else bool(sharding.all_agree(wish))


def _total_bytes(device: torch.device) -> float:
    return float(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else float("inf")
