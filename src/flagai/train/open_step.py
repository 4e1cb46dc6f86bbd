"""A training step that the device may still be computing while the host goes on."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PendingStep:
    """A step whose loss the device may still be computing.

    Args:
        step: its number.
        rate: its learning rate.
        sums: its loss, its tokens and whether the first process asks for a checkpoint, summed over the processes; on
            the host when ``arrived`` says so.
        arrived: what the copy to the host is followed by; None if there was none.
        seconds: from the step before to this one.
    """

    step: int
    rate: float
    sums: torch.Tensor
    arrived: torch.cuda.Event | None
    seconds: float


def towards_host(sums: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Begin to copy numbers to the host: asked for later, they would come after the work that was queued meanwhile."""
    if sums.device.type != "cuda":
        return sums, None
    copied, arrived = torch.empty_like(sums, device="cpu", pin_memory=True), torch.cuda.Event()
    copied.copy_(sums, non_blocking=True)
    arrived.record()
    return copied, arrived
