"""What a case of the grid of operations consists of; see cases.py."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.kernels.conftest import DEVICE

Context = Callable[[], AbstractContextManager[object]]
# The interpreter cuts bfloat16 off where a GPU rounds, and multiplies no matrices of it.
HALVES = [torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float16]
HALF = HALVES[0]


@dataclass
class Call:
    """Arguments, and what to compare after the operation has been computed: default its result."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    observed: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Case:
    """What an operation computes.

    Args:
        chosen: name of the implementation that must compute it, or "plain".
        about: what is special about it.
        make: makes the arguments on a device; the random generator has the same seed at every call.
        device: "cpu", or "triton" for a GPU; without one Triton's interpreter takes tensors of the CPU.
        dtype: the least exact dtype of the computation, which sets the tolerance.
        context: in which the arguments are made and computed.
    """

    chosen: str
    about: str
    make: Callable[[str], Call]
    device: str = "triton"
    dtype: torch.dtype = torch.float32
    context: Context = torch.no_grad


def with_gradients(*leaves: torch.Tensor) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Compare the result and the leaves' gradients."""

    def observed(result: torch.Tensor) -> list[torch.Tensor]:
        weights = torch.linspace(-1, 1, result.numel(), device=result.device).view_as(result).to(result.dtype)
        return [result.detach(), *torch.autograd.grad(result, leaves, weights)]

    return observed


def list_of(result: Any) -> list[Any]:
    """The result alone."""
    return [result]
