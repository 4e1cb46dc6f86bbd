"""Operations: functions in plain torch that kernels may compute faster.

A plain file declares an operation, and :mod:`flagai.kernels` registers implementations that compute the same faster,
each with the condition under which it holds::

    @operation
    def linear(hidden, weight, bias=None, activation_name=None): ...    # model/layer/linear.py

    @linear.faster(suits_onednn)
    def linear_by_onednn(hidden, weight, bias=None, activation_name=None): ...    # kernels/cpu/linear.py

This is the only door between the two: without the kernels' package every call computes in plain torch.
:mod:`flagai.model.layer.kernel_choice` has the switches.
"""

import importlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, update_wrapper
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

KERNELS = "flagai.kernels"
# The names of the implementations in use; None for all.
ALLOWED: ContextVar[frozenset[str] | None] = ContextVar("allowed_kernels", default=None)
# The names of all implementations that are registered so far.
REGISTERED: set[str] = set()
# The implementations used whose first call compiles kernels, by their names; None if none may be.
JIT: ContextVar[set[str] | None] = ContextVar("jit_kernels", default=None)


@dataclass(frozen=True)
class Implementation(Generic[P, R]):
    """A faster equal of an operation.

    Args:
        name: module and function, such as ``cpu.linear.linear_by_onednn``.
        suits: whether it computes the same for these arguments.
        compute: the implementation.
        traceable: whether :func:`torch.compile` may trace it.
        jit: whether it is used within ``jit_kernels`` only.
    """

    name: str
    suits: Callable[P, bool]
    compute: Callable[P, R]
    traceable: bool
    jit: bool


class Operation(Generic[P, R]):
    """A function that the first suitable implementation computes, and plain torch where none suits.

    Args:
        plain: the function in plain torch.
    """

    def __init__(self, plain: Callable[P, R]) -> None:
        self.plain = plain
        self.name = plain.__name__
        self.implementations: list[Implementation[P, R]] = []
        update_wrapper(self, plain)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute by the first implementation that suits."""
        return self.choose(*args, **kwargs)(*args, **kwargs)

    def __reduce__(self) -> str:
        """Copying and pickling keep the operation, by its name in its module, as of a function."""
        return self.name

    def choose(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
        """The implementation that computes these arguments."""
        allowed = _allowed_kernels(self.name)
        tracing = torch.compiler.is_compiling()
        jit = None if tracing else JIT.get()
        for each in self.implementations:
            permitted = (allowed is None or each.name in allowed) and (each.traceable or not tracing)
            if permitted and not (each.jit and jit is None) and each.suits(*args, **kwargs):
                if each.jit and jit is not None:
                    jit.add(each.name)
                return each.compute
        return self.plain

    def faster(
        self, suits: Callable[P, bool], *, traceable: bool = False, jit: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Register an implementation; those registered first are asked first.

        Args:
            suits: whether it computes the same for these arguments.
            traceable: whether :func:`torch.compile` may trace it; else a compiled caller computes in plain torch.
            jit: whether its first call compiles kernels for seconds: it is used within ``jit_kernels`` only.
        """

        def register(compute: Callable[P, R]) -> Callable[P, R]:
            name = f"{compute.__module__}.{compute.__qualname__}".removeprefix(f"{KERNELS}.")
            REGISTERED.add(name)
            self.implementations.append(Implementation(name, suits, compute, traceable, jit))
            return compute

        return register


def operation(plain: Callable[P, R]) -> Operation[P, R]:
    """Declare a plain function that kernels may compute faster."""
    return Operation(plain)


@cache
def _load(name: str) -> None:
    """Import the modules that register implementations of an operation."""
    try:
        modules = importlib.import_module(KERNELS).MODULES.get(name, ())
    except ModuleNotFoundError as error:
        if error.name != KERNELS:
            raise
        return
    for module in modules:
        importlib.import_module(f"{KERNELS}.{module}")


def _allowed_kernels(name: str) -> frozenset[str] | None:
    """Load an operation's kernels, and say which implementations are allowed."""
    _load(name)
    return ALLOWED.get()


# torch.compile traces neither imports nor context variables: it calls this once and keeps the answer. This is what
# torch.compiler.assume_constant_result does, which would import the compiler with every model.
_allowed_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]
