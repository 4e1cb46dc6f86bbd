"""Dropout off while answers are written, for as long as any thread writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from weakref import WeakKeyDictionary

from torch import nn

from flagai.generation.protocol import GenerativeModel


@dataclass
class _Mode:
    """Who needs a model without dropout, and which of its modules train again afterwards."""

    users: set[object] = field(default_factory=set)
    training: list[nn.Module] | None = None


_MODES: WeakKeyDictionary[GenerativeModel, _Mode] = WeakKeyDictionary()
# Reentrant: the garbage collector may end an abandoned stream of answers at any time, on this thread, too.
_LOCK = RLock()


@contextmanager
def evaluating(model: GenerativeModel) -> Iterator[None]:
    """Turn dropout off in the body; where bodies overlap, the last one to end turns it on again.

    Args:
        model: the model; modules that train now will train again.
    """
    user = object()
    with _LOCK:
        mode = _MODES.setdefault(model, _Mode())
        mode.users.add(user)
        if mode.training is None:
            mode.training = [module for module in model.modules() if module.training]
            if mode.training:
                model.eval()
    try:
        yield
    finally:
        with _LOCK:
            mode.users.discard(user)
            if not mode.users:
                for module in mode.training or ():
                    module.training = True
                mode.training = None
