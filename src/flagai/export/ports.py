"""Inputs and outputs of exported graphs: names, axes, meanings, and samples of any size to trace and compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

# The sizes of axes by their names: those of DYNAMIC, which change from call to call, and the model's own.
Sizes = Mapping[str, int]
DYNAMIC = ("batch", "sequence", "past", "total")


def sizes_of(batch: int, sequence: int, past: int = 0) -> Sizes:
    """The sizes of the axes that change from call to call."""
    return {"batch": batch, "sequence": sequence, "past": past, "total": past + sequence}


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Args:
        name: its name.
        axes: the names of its axes, separated by spaces.
        meaning: what it means.
        sample: gives one of any size, of an input.
    """

    name: str
    axes: str
    meaning: str
    sample: Callable[[Sizes], torch.Tensor] | None = None

    @property
    def shape(self) -> str:
        """The axes, as pages and messages show them."""
        return f"[{', '.join(self.axes.split())}]"

    @property
    def dynamic(self) -> dict[int, str]:
        """The numbers and names of the axes that change from call to call."""
        return {number: axis for number, axis in enumerate(self.axes.split()) if axis in DYNAMIC}


def padding_mask(sizes: Sizes) -> torch.Tensor:
    """1 at the tokens of texts of different lengths, which are padded on the right, [B, S]."""
    shorter = torch.arange(sizes["batch"]) * max(1, sizes["sequence"] // (sizes["batch"] + 1))
    lengths = (sizes["sequence"] - shorter).clamp(min=1)
    return (torch.arange(sizes["sequence"]) < lengths[:, None]).long()


def text_lengths(sizes: Sizes) -> torch.Tensor:
    """The lengths of those texts, [B]."""
    return padding_mask(sizes).sum(1)


def token_ids(sizes: Sizes) -> torch.Tensor:
    """Random tokens, [B, S]."""
    seeded = torch.Generator().manual_seed(sizes["total"])
    return torch.randint(0, sizes["vocab"], (sizes["batch"], sizes["sequence"]), generator=seeded)


def padded_ids(sizes: Sizes) -> torch.Tensor:
    """The same with the padding token at padding."""
    return torch.where(padding_mask(sizes) == 1, token_ids(sizes), sizes["padding"])


def segments(sizes: Sizes) -> torch.Tensor:
    """The second half of each row is another segment, if the model knows two, [B, S]."""
    second = (torch.arange(sizes["sequence"]) >= sizes["sequence"] // 2).long()
    return second.clamp(max=sizes["segments"] - 1).repeat(sizes["batch"], 1)


def running(sizes: Sizes) -> torch.Tensor:
    """Positions behind the past, [B, S]."""
    return torch.arange(sizes["past"], sizes["total"]).repeat(sizes["batch"], 1)


def block_positions(sizes: Sizes) -> torch.Tensor:
    """GLM's: the first half runs on, the second one stands at one place and counts inside of it, [B, 2, S]."""
    place, middle = running(sizes), sizes["total"] // 2
    return torch.stack([place.clamp(max=middle), (place - middle).clamp(min=0)], dim=1)


def past_mask(sizes: Sizes) -> torch.Tensor:
    """1 at tokens that are not padding, which stands before every second text, [B, total]."""
    pads = (torch.arange(sizes["batch"]) % 2).clamp(max=sizes["total"] - 1)
    return (torch.arange(sizes["total"]) >= pads[:, None]).long()


def visible(sizes: Sizes) -> torch.Tensor:
    """Which tokens a token attends to: the earlier ones, and in every second row all, [B, S, total]."""
    matrix = torch.ones(sizes["batch"], sizes["sequence"], sizes["total"], dtype=torch.long)
    matrix[::2] = matrix[::2].tril(sizes["past"])
    return matrix


def past_states(dtype: torch.dtype) -> Callable[[Sizes], torch.Tensor]:
    """Random keys or values of the past, [B, H, P, D]."""

    def sample(sizes: Sizes) -> torch.Tensor:
        seeded = torch.Generator().manual_seed(sizes["past"])
        shape = [sizes[axis] for axis in ("batch", "heads", "past", "head_size")]
        return torch.randn(shape, generator=seeded).to(dtype)

    return sample
