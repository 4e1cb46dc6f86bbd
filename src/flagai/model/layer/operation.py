"""Operations: plain functions in torch, right by themselves, that may have faster equals.

A plain file declares an operation; :mod:`flagai.kernels` registers implementations that compute the same faster, each
with the condition under which it holds::

    @operation
    def linear(hidden, weight, bias=None, activation_name=None): ...    # model/layer/linear.py

    @linear.faster(suits_onednn)
    def linear_by_onednn(hidden, weight, bias=None, activation_name=None): ...    # kernels/cpu/linear.py

This is the only door between the two: without the kernels' package every call computes in plain torch.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

KERNELS = "flagai.kernels"

# The implementations in use, by their names; None for all.
_allowed: ContextVar[frozenset[str] | None] = ContextVar("allowed_kernels", default=None)


@dataclass(frozen=True)
class Implementation(Generic[P, R]):
    """A faster equal of an operation.

    Args:
        suits: whether it computes the same for these arguments.
        compute: the implementation.
        traceable: whether :func:`torch.compile` may trace it.
    """

    suits: Callable[P, bool]
    compute: Callable[P, R]
    traceable: bool

    @property
    def name(self) -> str:
        """Module and function, such as ``cpu.linear.linear_by_onednn``."""
        return f"{self.compute.__module__}.{self.compute.__qualname__}".removeprefix(f"{KERNELS}.")


class Operation(Generic[P, R]):
    """A function that the first suitable implementation computes, and plain torch where none suits.

    Args:
        plain: the function in plain torch.
    """

    def __init__(self, plain: Callable[P, R]) -> None:
        self.plain = plain
        self.implementations: list[Implementation[P, R]] = []
        self._loaded = False
        update_wrapper(self, plain)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute by the first implementation that suits."""
        return self.choose(*args, **kwargs)(*args, **kwargs)

    def choose(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
        """The implementation that computes these arguments."""
        if not self._loaded:
            self._load()
        allowed = _allowed.get()
        tracing = torch.compiler.is_compiling()
        for each in self.implementations:
            permitted = (allowed is None or each.name in allowed) and (each.traceable or not tracing)
            if permitted and each.suits(*args, **kwargs):
                return each.compute
        return self.plain

    def faster(
        self, suits: Callable[P, bool], *, traceable: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Register an implementation; those registered first are asked first.

        Args:
            suits: whether it computes the same for these arguments.
            traceable: whether :func:`torch.compile` may trace it; else a compiled caller computes in plain torch.
        """

        def register(compute: Callable[P, R]) -> Callable[P, R]:
            self.implementations.append(Implementation(suits, compute, traceable))
            return compute

        return register

    def _load(self) -> None:
        """Import the modules that register implementations, at the first call."""
        try:
            modules = importlib.import_module(KERNELS).MODULES
        except ModuleNotFoundError as error:
            if error.name != KERNELS:
                raise
            modules = {}
        for module in modules.get(self.plain.__name__, ()):
            importlib.import_module(f"{KERNELS}.{module}")
        self._loaded = True


def operation(plain: Callable[P, R]) -> Operation[P, R]:
    """Declare a plain function that may have faster equals."""
    return Operation(plain)


@contextmanager
def only_kernels(*names: str) -> Iterator[None]:
    """Allow these implementations only, in this thread and task; without names, compute everything in plain torch.

    Args:
        names: such as ``cpu.linear.linear_by_onednn``, see :attr:`Implementation.name`.

    Example:
        >>> with only_kernels():
        ...     output = model(input_ids)
    """
    token = _allowed.set(frozenset(names))
    try:
        yield
    finally:
        _allowed.reset(token)
