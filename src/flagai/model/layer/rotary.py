"""Rotary positions: pairs of features of queries and keys are turned by an angle that grows with the position."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class Rotation:
    """The angles by which the tokens of a call are turned; worked out once for all layers.

    Args:
        cos: their cosines in float32, [B or 1, 1, S, parts, pairs].
        sin: their sines, the same.
        neighbours: whether a pair is two neighbours; else the first half of a part is paired with the second.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    neighbours: bool

    @property
    def features(self) -> int:
        """How many features of a head are turned: the first ones."""
        return 2 * self.cos.shape[-2] * self.cos.shape[-1]

    def turn(self, heads: torch.Tensor) -> torch.Tensor:
        """Turn queries or keys, [B, H, S, D] -> [B, H, S, D]; computed in float32."""
        turned, rest = heads[..., : self.features], heads[..., self.features :]
        parts, pairs = self.cos.shape[-2:]
        shape = (parts, pairs, 2) if self.neighbours else (parts, 2, pairs)
        axis = -1 if self.neighbours else -2
        first, second = turned.float().unflatten(-1, shape).unbind(axis)
        both = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        found = torch.stack(both, axis).flatten(-3).to(heads.dtype)
        return torch.cat([found, rest], dim=-1) if rest.shape[-1] else found


class Rotary(nn.Module):
    """Makes the angles of positions; it has no parameters.

    Args:
        features: how many features of a head are turned, those of all parts together.
        theta: the base of the frequencies, ``theta ** (-2 j / features of a part)``.
        neighbours: see :class:`Rotation`.
        parts: equal parts of the features, each with a position of its own (two in ChatGLM-6B).
        rounded: round the frequencies to float16, with which ChatGLM-6B was trained: at position 2048 cosines differ by
            0.3. Angles are float32 all the same.
        interpolation: positions are divided by it.

    Source:
        Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    """

    def __init__(
        self,
        features: int,
        *,
        theta: float = 10000.0,
        neighbours: bool = False,
        parts: int = 1,
        rounded: bool = False,
        interpolation: float = 1.0,
    ) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.features, self.theta, self.neighbours, self.parts, self.rounded = (
            features,
            theta,
            neighbours,
            parts,
            rounded,
        )
        self._known: dict[torch.device, torch.Tensor] = {}

    def forward(self, *positions: torch.Tensor) -> Rotation:
        """The angles of tokens.

        Args:
            *positions: for each part, [B or 1, S].
        """
        places = torch.stack(torch.broadcast_tensors(*positions), dim=-1)[:, None, :, :, None]
        angles = places.float() / self.interpolation * self._frequencies(places.device)
        return Rotation(angles.cos(), angles.sin(), self.neighbours)

    def _frequencies(self, device: torch.device) -> torch.Tensor:
        """[pairs of a part]; worked out once."""
        if device not in self._known:
            with torch.inference_mode(False):  # kept for calls with gradients, too
                size = self.features // self.parts
                exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
                found = 1.0 / self.theta**exponents
                self._known[device] = (found.half().float() if self.rounded else found).to(device)
        return self._known[device]

    def extra_repr(self) -> str:
        """See :class:`torch.nn.Module`."""
        return f"{self.features}, theta={self.theta}, neighbours={self.neighbours}, parts={self.parts}"
