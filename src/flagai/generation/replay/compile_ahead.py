"""Kernels that must be compiled first: tried on a thread of their own, while steps go on without them."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Thread

import torch

logger = logging.getLogger(__name__)


class Trial:
    """Work that is done once on another thread, to see that it can be done and to have it compiled.

    Args:
        work: the work; nobody may wait for its results.
        device: whose work it is.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self.failed = False
        stream: AbstractContextManager[object] = nullcontext()
        if device.type == "cuda":
            # That of the caller: memory goes back and forth between the two in the order of this stream.
            stream = torch.cuda.stream(torch.cuda.current_stream(device))
        # Not a daemon: the end of the program waits for the compiler, which must not be cut off.
        self._thread = Thread(target=self._run, args=(work, stream), name="flagai-kernels")
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
        except Exception as error:  # noqa: BLE001 - a compiler can fail in any way, and there is a way without it
            self.failed = True
            logger.warning("The kernels of a step cannot be used here; torch's are used instead. %s", error)
