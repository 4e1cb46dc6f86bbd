"""Muon for the matrices of the blocks, AdamW for embeddings, biases and norms, and their schedule.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the size of a step as in Liu et
al. 2025, "Muon is Scalable for LLM Training", so that both optimizers take learning rates of the same kind.
"""

import math
from collections.abc import Iterator, Sequence

import torch

# Newton and Schulz's iteration in five steps, which turns all singular values into about one.
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
_MOMENTUM, _BETAS, _CLIP, _ADAM_DECAY = 0.95, (0.9, 0.98), 1.0, 0.1


def schedule(step: int, warm_up: int, decay_from: int, total: int) -> float:
    """The learning rate's factor: a line up, one, and a line down to nothing.

    Args:
        step: from 0.
        warm_up: steps of the line up.
        decay_from: the first step of the line down; with ``total`` 0 there is none.
        total: number of steps.
    """
    up = min(1.0, (step + 1) / max(warm_up, 1))
    if not total or step < decay_from:
        return up
    return up * max(0.0, (total - step) / max(total - decay_from, 1))


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly, [N, A, B]."""
    wide = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = wide.shape[1] > wide.shape[2]
    if tall:
        wide = wide.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    one, three, five = _COEFFICIENTS
    for _ in range(_STEPS):
        square = wide @ wide.mT
        wide = one * wide + (three * square + five * square @ square) @ wide
    return (wide.mT if tall else wide).to(matrices.dtype)


class Optimizer:
    """Muon and AdamW under one schedule, or AdamW alone.

    Args:
        named: the parameters by name.
        rate: Muon's highest learning rate.
        adam_rate: AdamW's.
        decay: Muon's decay of weights.
        muon: use it for the matrices of the blocks.
    """

    def __init__(
        self, named: dict[str, torch.Tensor], rate: float, adam_rate: float, decay: float, *, muon: bool = True
    ) -> None:
        self.rate, self.decay = rate, decay
        hidden = {name: p for name, p in named.items() if muon and ".blocks." in name and p.dim() == 2}
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for parameter in hidden.values():
            shapes.setdefault(parameter.shape, []).append(parameter)
        self.groups: Sequence[list[torch.Tensor]] = list(shapes.values())
        self.moments = [torch.zeros_like(torch.stack(group)) for group in self.groups]
        others = [parameter for name, parameter in named.items() if name not in hidden]
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.dim() > 1], "weight_decay": _ADAM_DECAY, "rate": adam_rate},
                {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "rate": adam_rate},
            ],
            lr=adam_rate,
            betas=_BETAS,
            fused=others[0].is_cuda,
        )
        self._clipped = others

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One step at a part of the highest learning rates; gradients are gone after it."""
        torch.nn.utils.clip_grad_norm_(self._clipped, _CLIP, foreach=True)
        for group in self.adam.param_groups:
            group["lr"] = group["rate"] * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        rate = self.rate * factor
        for group, moment in zip(self.groups, self.moments, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group])  # type: ignore[misc]
            moment.lerp_(gradient, 1 - _MOMENTUM)
            change = orthogonal(gradient.lerp_(moment, _MOMENTUM))
            size = 0.2 * math.sqrt(max(change.shape[1:]))
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_add_(group, list(change.unbind()), alpha=-rate * size)
            for parameter in group:
                parameter.grad = None

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The moments by name: ``first...`` may have any sign, ``second...`` are not negative."""
        for number, moment in enumerate(self.moments):
            yield f"first.muon.{number}", moment
        for number, parameter in enumerate(self._clipped):
            state = self.adam.state.get(parameter)
            if not state:
                state = self.adam.state[parameter]
                state["step"] = torch.zeros((), device=parameter.device if parameter.is_cuda else "cpu")
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            yield f"first.adam.{number}", state["exp_avg"]
            yield f"second.adam.{number}", state["exp_avg_sq"]

    def set_steps(self, steps: int) -> None:
        """Say how many steps the moments of :meth:`state` have seen."""
        for state in self.adam.state.values():
            state["step"].fill_(steps)
