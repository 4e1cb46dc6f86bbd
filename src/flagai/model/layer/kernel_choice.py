"""Which implementations of operations are used: switches for a body of code, and what a module must not have."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import chain

from torch import nn

from flagai.errors import InputError
from flagai.model.layer.operation import ALLOWED, JIT, KERNELS, REGISTERED


@contextmanager
def only_kernels(*names: str) -> Iterator[None]:
    """Allow these implementations only, in this thread and task; without names, compute everything in plain torch.

    Args:
        names: such as ``cpu.linear.linear_by_onednn``, see :class:`Implementation`.

    Raises:
        InputError: there is no such implementation; the message has the near names.

    Example:
        >>> with only_kernels():
        ...     output = model(input_ids)
    """
    for name in names:
        _check_name(name)
    token = ALLOWED.set(frozenset(names))
    try:
        yield
    finally:
        ALLOWED.reset(token)


def _check_name(name: str) -> None:
    """Refuse a name that no implementation has; only the module that it names is imported, unless it is unknown."""
    if name in REGISTERED:
        return
    try:
        modules = sorted(set(chain.from_iterable(import_module(KERNELS).MODULES.values())))
    except ModuleNotFoundError as error:
        if error.name != KERNELS:
            raise
        raise InputError(
            f"There is no kernel {name!r:.80}: the package {KERNELS} is absent. Reinstall flagai."
        ) from error
    named = name.rpartition(".")[0]
    for module in [named] if named in modules else modules:
        import_module(f"{KERNELS}.{module}")
    if name not in REGISTERED:
        near = difflib.get_close_matches(name, REGISTERED, n=3, cutoff=0.4) or sorted(REGISTERED)
        raise InputError(f"There is no kernel {name!r:.80}. Near: {', '.join(near)}.")


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
