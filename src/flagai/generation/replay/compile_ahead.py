"""Kernels that must be compiled first: on a thread of its own, while steps go on without them."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from threading import Thread

import torch

from flagai.generation.replay.cuda_graph import GraphedFunction, Recorder

logger = logging.getLogger(__name__)

# Seconds to wait for kernels before steps begin without them; None for as long as it takes. Kernels that an earlier
# process compiled need less: then answers never depend on how fast the host is.
PATIENCE: float | None = 1.0


class BackgroundCompile:
    """Work that is done once on another thread, to have its kernels compiled and to see that they can be.

    Args:
        work: the work; its results are not used.
        device: the device that does it.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self.failed = False
        stream: AbstractContextManager[object] = nullcontext()
        if device.type == "cuda":
            # That of the caller: memory goes back and forth between the two in the order of this stream.
            stream = torch.cuda.stream(torch.cuda.current_stream(device))
        # Not a daemon: the end of the program waits for the compiler, which must not be cut off.
        self._thread = Thread(target=copy_context().run, args=(self._run, work, stream), name="flagai-kernels")
        self._thread.start()

    def over(self, patience: float | None = 0.0) -> bool:
        """Whether the work has been done, or has failed.

        Args:
            patience: seconds to wait for it; None for as long as it takes.
        """
        self._thread.join(patience)
        return not self._thread.is_alive()

    @torch.inference_mode()
    def _run(self, work: Callable[[], None], stream: AbstractContextManager[object]) -> None:
        try:
            with stream:
                work()
        except Exception as error:  # noqa: BLE001 - a compiler can fail in any way, and torch computes the same
            self.failed = True
            logger.warning("The kernels of a step cannot be used here; torch's are used instead. %s", error)


class CompiledLater:
    """Captured work that uses kernels as soon as they have been compiled, and does without until then.

    Args:
        work: does it; it is told whether it may use kernels that have to be compiled.
        recorder: captures graphs.
        compiling: its kernels; None if there is nothing to wait for.
        jit: whether it may use kernels from the first time on.
        patience: seconds to wait for them now; None for as long as it takes.
    """

    def __init__(
        self,
        work: Callable[[bool], None],
        recorder: Recorder,
        compiling: BackgroundCompile | None,
        *,
        jit: bool,
        patience: float | None,
    ) -> None:
        self._with_kernels = GraphedFunction(partial(work, True), recorder)
        self._graph = self._with_kernels if jit else GraphedFunction(partial(work, False), recorder)
        self._compiling = compiling
        self._switch(patience)

    def __call__(self) -> None:
        """Do the work."""
        self._switch(0.0)
        self._graph()

    def _switch(self, patience: float | None) -> None:
        if self._compiling is None or not self._compiling.over(patience):
            return
        if not self._compiling.failed:
            self._graph = self._with_kernels
        self._compiling = None
