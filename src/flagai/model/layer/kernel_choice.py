"""Which implementations of operations are used: switches for a body of code, and what a module must not have."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from flagai.model.layer.operation import ALLOWED, JIT


@contextmanager
def only_kernels(*names: str) -> Iterator[None]:
    """Allow these implementations only, in this thread and task; without names, compute everything in plain torch.

    Args:
        names: such as ``cpu.linear.linear_by_onednn``, see :class:`Implementation`.

    Example:
        >>> with only_kernels():
        ...     output = model(input_ids)
    """
    token = ALLOWED.set(frozenset(names))
    try:
        yield
    finally:
        ALLOWED.reset(token)


def allowed_kernels() -> frozenset[str] | None:
    """The names of :func:`only_kernels`; None outside of it."""
    return ALLOWED.get()


@contextmanager
def jit_kernels(use: bool = True) -> Iterator[set[str]]:
    """Use implementations, too, whose first call compiles kernels, in this thread and task.

    Args:
        use: False uses only the others.

    Yields:
        The names of those that are used in the body.
    """
    used: set[str] = set()
    token = JIT.set(used if use else None)
    try:
        yield used
    finally:
        JIT.reset(token)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks before or after its ``forward``, or one of its own (as Accelerate gives it).

    What is computed without calling the module would not run them. Its submodules are not checked.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
