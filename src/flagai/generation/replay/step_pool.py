"""The captured steps of each model, kept for the next prompts."""

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

from flagai.generation.decoding_state import DecodingState
from flagai.generation.replay import compile_ahead, cuda_graph
from flagai.generation.replay.compile_ahead import BackgroundCompile
from flagai.generation.replay.cuda_graph import Recorder
from flagai.generation.replay.forward import RecordedForward, StepKey

# How many forward passes of different shapes a model keeps ready.
_KEPT = 4


class StepPool:
    """The captured forward passes of one model."""

    def __init__(self) -> None:
        self.ready: list[RecordedForward] = []
        self.compiling: dict[Hashable, BackgroundCompile] = {}  # kernels of the searches' steps
        self._recorders: dict[torch.device, Recorder] = {}
        self._taking = Lock()
        # Closing a process group that graphs still use would never return.
        weakref.finalize(self, self.ready.clear)

    def recorder(self, device: torch.device) -> Recorder:
        """What captures this model's steps on a device; a model may move from one to another."""
        if device not in self._recorders:
            self._recorders[device] = cuda_graph.recorder_for(device)
        return self._recorders[device]

    def compiled(self, key: Hashable, work: Callable[[], None], device: torch.device) -> BackgroundCompile:
        """Compile kernels by using them once, unless that has been done for this key."""
        if key not in self.compiling:
            self.compiling[key] = BackgroundCompile(work, device)
        return self.compiling[key]

    @contextmanager
    def lend(self, state: DecodingState) -> Iterator[RecordedForward]:
        """A forward pass for a state, which no other state uses in the body."""
        key, sharding = StepKey.of(state), state.model.sharding
        forward = self._take(key)
        if sharding is not None and not sharding.all_agree(forward is not None):
            forward = None  # all ranks begin anew where one has to
        if forward is None:
            forward = RecordedForward(state.model, key, state.cache, self.recorder(state.device))
            # Ranks that share a model must all use kernels from the same step on.
            forward.compile_kernels(state.model, state.cache, compile_ahead.PATIENCE if sharding is None else None)
        forward.cache.load(state.cache)
        try:
            yield forward
        finally:
            # One that was never captured holds the model, which holds us.
            if forward.ready:
                with self._taking:
                    self.ready[:] = [*self.ready, forward][-_KEPT:]

    def _take(self, key: StepKey) -> RecordedForward | None:
        with self._taking:
            found = next((forward for forward in self.ready if forward.key == key), None)
            # Those that read parameters at addresses of before will never fit again.
            self.ready[:] = [
                other for other in self.ready if other.key.addresses == key.addresses and other is not found
            ]
        return found


_POOLS: "weakref.WeakKeyDictionary[nn.Module, StepPool]" = weakref.WeakKeyDictionary()


def step_pool(model: Any) -> StepPool:
    """The captured steps of a model; a copy of a model begins without any."""
    if model not in _POOLS:
        _POOLS[model] = StepPool()
    return _POOLS[model]
