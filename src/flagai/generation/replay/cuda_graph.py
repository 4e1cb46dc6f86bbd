"""Work of a GPU, recorded once and replayed: what a step costs the host is then two calls."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Protocol

import torch

from flagai.model.meta_init import gc_paused

Work = Callable[[], None]

# All recordings have one stream: what another thread did on it meanwhile would become a part of the recording.
_ALONE = Lock()


class Recorder(Protocol):
    """What can record work."""

    def warm_up(self, work: Work) -> None:
        """Do the work as it is, in surroundings like those of the recording."""

    def record(self, work: Work) -> Work:
        """Note what the work would do, without doing it; the result does it."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory, so nothing may live from one of them to the next in it.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()
        # A pool whose last graph has gone cannot be used again: this one stays as long as the recorder.
        self._first: Work | None = None

    def warm_up(self, work: Work) -> None:
        """See :class:`Recorder`; on the stream of the recordings, whose libraries get their work space that way."""
        stream, current = side_stream(self.device), torch.cuda.current_stream(self.device)
        with _ALONE, torch.cuda.stream(stream):
            stream.wait_stream(current)
            work()
            current.wait_stream(stream)

    def record(self, work: Work) -> Work:
        """See :class:`Recorder`."""
        with _ALONE:
            if self._first is None:
                kept = torch.zeros(1, device=self.device)
                self._first = self._graph(lambda: kept.add_(1))
            return self._graph(work)

    def _graph(self, work: Callable[[], object]) -> Work:
        graph = torch.cuda.CUDAGraph()
        stream, current = side_stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        # Not torch.cuda.graph, which waits for the device, collects garbage and gives back free memory: for a
        # recording of milliseconds, that is most of the time.
        with gc_paused(), torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # the first error says more
                    graph.capture_end()
                raise
            graph.capture_end()
        current.wait_stream(stream)
        return graph.replay


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings: libraries keep work space for every stream that they have seen."""
    return torch.cuda.Stream(device)


class GraphedFunction:
    """Work that is done as it is the first time, recorded the second time, and replayed from then on.

    It must read and write the same tensors every time, and its shapes must not change.

    Args:
        work: what to do.
        recorder: what records it.
    """

    def __init__(self, work: Work, recorder: Recorder) -> None:
        self._work: Work | None = work
        self._recorder = recorder
        self._warmed_up = False
        self._replay: Work | None = None

    def __call__(self) -> None:
        """Do the work."""
        if self._work is not None and not self._warmed_up:
            self._warmed_up = True
            self._recorder.warm_up(self._work)
            return
        if self._work is not None:
            # What is forgotten here holds the model, which must be free to go.
            self._replay, self._work = self._recorder.record(self._work), None
        if self._replay is not None:
            self._replay()


def recorder_for(device: torch.device) -> Recorder:
    """What captures the work of a device."""
    return CudaRecorder(device)


def can_record(device: torch.device) -> bool:
    """Whether the work of a device can be captured."""
    return device.type == "cuda"
