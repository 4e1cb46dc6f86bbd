"""Parameters that were randomly initialized because a checkpoint does not have them, and not trained since."""

from collections.abc import Iterable

import torch
from torch import nn

_COMPARED = 8  # numbers of a parameter; training changes them all
_ATTRIBUTE = "_initial_values"


def note_untrained(model: nn.Module, names: Iterable[str]) -> None:
    """Note the first numbers of parameters that were randomly initialized, to see later whether they were trained.

    Args:
        model: the model.
        names: names of parameters.
    """
    drawn = {name: _first(parameter) for name in names if (parameter := _find(model, name)) is not None}
    setattr(model, _ATTRIBUTE, drawn)


def untrained(model: nn.Module) -> list[str]:
    """The parameters that a checkpoint did not have, such as a new head's, while none of them has been trained."""
    drawn: dict[str, tuple[float, ...]] = getattr(model, _ATTRIBUTE, {})
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
def _first(parameter: nn.Parameter) -> tuple[float, ...]:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # one of several ranks has a part
    return tuple(local.detach().flatten()[:_COMPARED].tolist())
