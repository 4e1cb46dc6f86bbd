"""A recorder for CPUs with the semantics of CUDA graphs: it notes which kernels run on what, and no more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flagai.generation.replay import cuda_graph
from flagai.parallel.dtensor import local


class _Tape(TorchDispatchMode):
    """Notes every operation, its arguments and the tensors that it wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, found))
        return found

    def play(self) -> None:
        """Run the kernels again: numbers that the host knew are the old ones, tensors lie where they lay."""
        for func, args, kwargs, old in self.notes:
            new = func(*args, **kwargs)
            read = {id(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
            _wait(new)
            for before, after in zip(tree_leaves(old), tree_leaves(new), strict=True):
                if not isinstance(before, torch.Tensor) or id(before) in read:
                    continue
                if local(before).untyped_storage().data_ptr() != local(after).untyped_storage().data_ptr():
                    local(before).copy_(local(after))


def _wait(found: Any) -> None:
    """Wait for the other ranks, if the operation was one of all."""
    for work in tree_leaves(found):
        if isinstance(work, torch.ScriptObject) and hasattr(work, "wait"):
            work.wait()


class TapeRecorder:
    """See :class:`flagai.generation.replay.cuda_graph.Recorder`."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        written = _Tape()
        with written:
            work()
        self.recorded += 1
        # A CUDA graph does nothing while it is recorded; here the first replay is what has just been done.
        fresh = [True]

        def play() -> None:
            self.replayed += 1
            if not fresh:
                written.play()
            fresh.clear()

        return play


@contextmanager
def taped() -> Iterator[TapeRecorder]:
    """In the body, steps are captured on a CPU, too."""
    recorder = TapeRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graph, "recorder_for", lambda _: recorder)
        patch.setattr(cuda_graph, "can_record", lambda _: True)
        yield recorder
