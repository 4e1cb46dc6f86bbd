"""Saving a model that lies on several ranks: one writes, the others hand over their parts, tensor by tensor."""

from collections.abc import Callable, Sequence

import torch
from torch import distributed

from flagai.checkpoint.names import Window
from flagai.checkpoint.save import Build, Plan, build
from flagai.errors import CheckpointError
from flagai.parallel import dtensor


def write_together(plan: Plan, write: Callable[[Build], None]) -> None:
    """Let the first rank write while all gather; every rank must call it, and all end alike.

    The first rank never holds more than one file's tensors, the others one tensor.

    Args:
        plan: what is written, in the order in which it is written.
        write: writes it, building each tensor with the function that it gets.

    Raises:
        CheckpointError: on the other ranks, if the first one failed; there its own error is raised.
    """
    built = 0

    def gather(sources: Sequence[tuple[Window, torch.Tensor]]) -> torch.Tensor:
        nonlocal built
        built += 1
        return build([(window, dtensor.whole(tensor).detach().cpu()) for window, tensor in sources])

    failure: Exception | None = None
    if distributed.get_rank() == 0:
        try:
            write(gather)
        except Exception as error:  # noqa: BLE001 - raised below, when the others are not left waiting
            failure = error
    for sources in list(plan.values())[built:]:
        for _, tensor in sources:
            dtensor.whole(tensor)
    outcome: list[str | None] = [None if failure is None else f"{type(failure).__name__}: {failure}"]
    distributed.broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[0] is not None:
        raise CheckpointError(f"The first rank could not save. Look at its message: {outcome[0]}")
