"""From the hidden states of a text's tokens to one vector, as sentence-transformers' modules do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from flagai.model.layer.packed_row import PackedRow


@dataclass(frozen=True)
class PackedStates:
    """The hidden states of packed texts.

    Args:
        states: float32, [T, width].
        starts: where each text begins, [N].
        lengths: its number of tokens, [N].
        text: the text of each token, [T].
        place: the place of each token in its text, [T].
        skipped: how many of a text's first tokens do not count: those of a prompt.
    """

    states: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    text: torch.Tensor
    place: torch.Tensor
    skipped: int

    @classmethod
    def of(cls, states: torch.Tensor, row: PackedRow, skipped: int) -> "PackedStates":
        """Read the states of a row, [T, width]."""
        bounds = row.cu_seqlens(states.device).long()
        starts, lengths = bounds[:-1], bounds.diff()
        numbers = torch.arange(len(lengths), device=states.device)
        text = numbers.repeat_interleave(lengths, output_size=row.total)
        place = torch.arange(row.total, device=states.device) - starts[text]
        return cls(states.float(), starts, lengths, text, place, skipped)

    @classmethod
    def of_padded(cls, states: torch.Tensor, mask: torch.Tensor) -> "PackedStates":
        """Read padded states, [B, S, width], of which the tokens with a 1 in the mask, [B, S], are in one piece."""
        rows, size = mask.shape
        place = (mask.cumsum(1) * mask - 1).flatten()  # -1 at padding, which no text counts
        numbers = torch.arange(rows, device=mask.device)
        text = numbers[:, None].expand(rows, size).flatten()
        return cls(states.flatten(0, 1).float(), numbers * size + mask.argmax(1), mask.sum(1), text, place, 0)

    @property
    def counted(self) -> torch.Tensor:
        """1 for tokens that count, else 0, [T]."""
        return (self.place >= self.skipped).float()

    def weighted_sum(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of weighted states and of weights, [N, width] and [N, 1]."""
        count = self.lengths.shape[0]  # len would fix it for torch.export
        total = self.states.new_zeros(count, self.states.shape[1])
        sums = total.index_add(0, self.text, self.states * weights[:, None])
        return sums, self.states.new_zeros(count).index_add(0, self.text, weights)[:, None].clamp(min=1e-9)


def _first(packed: PackedStates) -> torch.Tensor:
    return packed.states[packed.starts + packed.lengths.sub(1).clamp(max=packed.skipped)]


def _last(packed: PackedStates) -> torch.Tensor:
    return packed.states[packed.starts + packed.lengths - 1]


def _max(packed: PackedStates) -> torch.Tensor:
    kept = packed.states.masked_fill(packed.counted[:, None] == 0, -torch.inf)
    least = kept.new_full((packed.lengths.shape[0], kept.shape[1]), -torch.inf)
    return least.scatter_reduce(0, packed.text[:, None].expand_as(kept), kept, "amax")


def _mean(packed: PackedStates) -> torch.Tensor:
    sums, count = packed.weighted_sum(packed.counted)
    return sums / count


def _mean_sqrt(packed: PackedStates) -> torch.Tensor:
    sums, count = packed.weighted_sum(packed.counted)
    return sums / count.sqrt()


def _weighted_mean(packed: PackedStates) -> torch.Tensor:
    """Later tokens weigh more."""
    sums, count = packed.weighted_sum(packed.counted * (packed.place + 1))
    return sums / count


# By sentence-transformers' names.
MODES: Mapping[str, Callable[[PackedStates], torch.Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda hidden: hidden,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
}


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear layer over vectors, and its activation.

    Args:
        weight: [out, in]
        bias: [out]; None for none.
        activation: one of ``ACTIVATIONS``.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, out]."""
        bias = None if self.bias is None else self.bias.to(vectors.device)
        return ACTIVATIONS[self.activation](F.linear(vectors, self.weight.to(vectors.device), bias))


def to_unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Scale vectors to length 1, [N, width]."""
    return F.normalize(vectors, dim=-1)


@dataclass(frozen=True, eq=False)
class Pooling:
    """What becomes of the hidden states of a text.

    Args:
        modes: which vectors are made of them, one behind the other.
        include_prompt: whether the tokens of a prompt count.
        after: what is done with the vectors.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    after: Sequence[Callable[[torch.Tensor], torch.Tensor]] = ()

    def width(self, hidden_size: int) -> int:
        """The size of the vectors."""
        sizes = [len(step.weight) for step in self.after if isinstance(step, Projection)]
        return sizes[-1] if sizes else len(self.modes) * hidden_size

    def __call__(self, states: torch.Tensor, row: PackedRow, prompt_length: int = 0) -> torch.Tensor:
        """Make a vector of each text.

        Args:
            states: the hidden states of packed texts, [1, T, width].
            row: where they lie.
            prompt_length: how many first tokens of each text are a prompt's.

        Shape:
            -> [N, width], float32
        """
        skipped = 0 if self.include_prompt else prompt_length
        if self.modes == ("mean",) and not skipped:
            vectors = row.mean(states)
        else:
            vectors = self._joined(PackedStates.of(states[0], row, skipped))
        return self._finished(vectors)

    def of_padded(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same of padded texts without prompts, [B, S, width] and [B, S] -> [B, width], float32."""
        return self._finished(self._joined(PackedStates.of_padded(states, mask)))

    def _joined(self, packed: PackedStates) -> torch.Tensor:
        return torch.cat([MODES[mode](packed) for mode in self.modes], dim=-1)

    def _finished(self, vectors: torch.Tensor) -> torch.Tensor:
        for step in self.after:
            vectors = step(vectors)
        return vectors
