"""Parameters that were randomly initialised because a checkpoint does not have them, and not trained since."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

_COMPARED = 8  # numbers of a parameter; training changes them all
Numbers = tuple[float, ...]


def first_numbers(model: nn.Module, names: Iterable[str]) -> dict[str, Numbers]:
    """The first numbers of parameters, to see later whether they were trained.

    Args:
        model: the model.
        names: names of parameters.
    """
    return {name: _first(parameter) for name in names if (parameter := _find(model, name)) is not None}


def untrained(model: nn.Module, drawn: Mapping[str, Numbers]) -> list[str]:
    """The names of the parameters that were randomly initialised, while none of them has been trained.

    Args:
        model: the model.
        drawn: from :func:`first_numbers`.
    """
    for name, numbers in drawn.items():
        parameter = _find(model, name)
        # In the type that the parameter has now, as it may have been cast.
        if parameter is None or _first(parameter) != tuple(torch.tensor(numbers).to(parameter.dtype).tolist()):
            return []
    return list(drawn)


def _find(model: nn.Module, name: str) -> nn.Parameter | None:
    owner, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Parameter) else None


@torch.no_grad()
def _first(parameter: nn.Parameter) -> Numbers:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # one of several ranks has a part
    return tuple(local.detach().flatten()[:_COMPARED].tolist())
