"""What the model reads in a step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch.nn import functional as F


@dataclass
class StepInputs:
    """What the model reads in a step, for T tokens.

    Args:
        ids: [T]
        positions: in the text, and inside of a span, [2, T].
        generated: whether they have been generated, [T].
        slot_mapping: where their keys go, [T].
        slots: those of the keys that they attend to, int32 [T, L].
        lengths: how many keys, int32 [T].
        cross_slots: those of the encoder's output, int32 [T, C].
        cross_lengths: how many, int32 [T].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    generated: torch.Tensor
    slot_mapping: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    cross_slots: torch.Tensor
    cross_lengths: torch.Tensor

    @classmethod
    def cat(cls, parts: "Sequence[StepInputs]") -> "StepInputs":
        """The tokens of several batches in one call."""
        if len(parts) == 1:
            return parts[0]
        joined = {}
        for entry in fields(cls):
            tensors = [getattr(part, entry.name) for part in parts]
            if entry.name in ("slots", "cross_slots"):
                longest = max(tensor.shape[1] for tensor in tensors)
                tensors = [F.pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors]
            joined[entry.name] = torch.cat(tensors, dim=int(entry.name == "positions"))
        return cls(**joined)

    def put(self, inputs: "StepInputs") -> None:
        """Take over the values of others in place; tokens behind theirs stay as they are."""
        for entry in fields(self):
            mine, new = getattr(self, entry.name), getattr(inputs, entry.name)
            if entry.name == "positions":
                mine[:, : new.shape[1]].copy_(new)
            elif mine.dim() == 1:
                mine[: len(new)].copy_(new)
            else:
                mine[: len(new), : new.shape[1]].copy_(new)

    def clear(self) -> None:
        """Empty all tokens."""
        for entry in fields(self):
            getattr(self, entry.name).zero_()

    def trimmed(self) -> "StepInputs":
        """Without columns of slots that no token needs; the device is asked how many."""
        slots, cross = max(int(self.lengths.max()), 1), int(self.cross_lengths.max())
        return replace(self, slots=self.slots[:, :slots], cross_slots=self.cross_slots[:, :cross])
