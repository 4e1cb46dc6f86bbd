"""Many sequences through an encoder without padding: packed, run, put back in order.

A pack is one row of sequences, one after the other; every layer but attention works on one long sequence, so nothing
is computed for padding. Texts are packed by length: neighbours of equal length then share one attention call.

On a GPU nothing here waits for the device: while it computes one pack, the host prepares the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from flagai.data.ragged import Numbers, Ragged
from flagai.errors import InputError
from flagai.model.layer.packed_row import PackedRow, check_length, on_device

# Tokens of one pack. On a CPU the activations of a block should stay in its caches (all-MiniLM-L6-v2: 1.8 s with
# 1,024, 1.5 s with 2,048 and 4,096, 1.7 s with 8,192; BERT-base: all alike); a GPU wants to be filled.
_CPU_TOKENS = 2048
_GPU_TOKENS = 32768

_Result = TypeVar("_Result")
TokenRows = Sequence[Sequence[int]] | Ragged


@dataclass(frozen=True)
class PackedBatch:
    """Texts in one row, on the model's device."""

    indices: tuple[int, ...]  # which of all texts these are, in the order of the row
    row: PackedRow  # where they lie
    input_ids: torch.Tensor  # their tokens, [1, T]
    token_type_ids: torch.Tensor | None = None  # their segments, [1, T], if there are any

    @property
    def arguments(self) -> dict[str, Any]:
        """What an encoder's ``forward`` takes."""
        arguments: dict[str, Any] = {"input_ids": self.input_ids, "lengths": self.row}
        return arguments if self.token_type_ids is None else arguments | {"token_type_ids": self.token_type_ids}


def check_lengths(lengths: Sequence[int] | Numbers, limit: int | None) -> None:
    """Refuse texts that cannot be packed.

    Args:
        lengths: how many tokens each text has.
        limit: the model's number of positions.

    Raises:
        InputError: a text is empty or longer than ``limit``; the message has its index.
    """
    found = np.asarray(lengths)
    if not found.all():
        raise InputError(f"Text {found.argmin()} has no tokens.")
    if limit is not None and len(found):
        check_length(found, limit)


def pack_sequences(
    texts: TokenRows,
    *,
    device: torch.device,
    token_type_ids: TokenRows | None = None,
    limit: int | None = None,
    tokens: int | None = None,
) -> Iterator[PackedBatch]:
    """Cut texts into packs, the longest first.

    Args:
        texts: the token ids of every text.
        device: where the packs are placed.
        token_type_ids: the segment of every token of every text.
        limit: the model's number of positions.
        tokens: tokens of one pack, at most, unless one text has more; default what suits the device.

    Raises:
        InputError: a text is empty or longer than ``limit``, or its segments do not fit it.
    """
    found = Ragged.of(texts)
    segments = None if token_type_ids is None else Ragged.of(token_type_ids)
    check_lengths(found.lengths, limit)
    if segments is not None and not np.array_equal(segments.lengths, found.lengths):
        raise InputError("token_type_ids must have one number for every token of every text.")
    budget = tokens or (_CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS)
    for indices in _grouped(found.lengths, budget):
        taken = found.take(indices)
        yield PackedBatch(
            indices=tuple(indices.tolist()),
            row=PackedRow(tuple(taken.lengths.tolist())),
            input_ids=on_device(taken.values, device)[None],
            token_type_ids=None if segments is None else on_device(segments.take(indices).values, device)[None],
        )


def run_packed(texts: TokenRows, run: Callable[[PackedBatch], Sequence[_Result]], **options: Any) -> list[_Result]:
    """Run texts in packs and return one result per text, in the order of the texts.

    Args:
        texts: the token ids of every text.
        run: computes the results of a pack, one per text, in the order of its row.
        **options: see :func:`pack_sequences`.

    Raises:
        InputError: see :func:`pack_sequences`.
    """
    found: dict[int, _Result] = {}
    for pack in pack_sequences(texts, **options):
        found.update(zip(pack.indices, run(pack), strict=True))
    return [found[index] for index in range(len(texts))]


def run_packed_rows(
    texts: TokenRows, run: Callable[[PackedBatch], torch.Tensor], *, device: torch.device, **options: Any
) -> Any:
    """Run texts in packs and return one row per text, in the order of the texts, without waiting for the device.

    Args:
        texts: the token ids of every text; at least one.
        run: computes the rows of a pack, one per text, in the order of its row, [n, width].
        device: where the packs and the rows are.
        **options: see :func:`pack_sequences`.

    Shape:
        -> [N, width]

    Raises:
        InputError: see :func:`pack_sequences`.
    """
    indices: list[int] = []
    rows: list[torch.Tensor] = []
    for pack in pack_sequences(texts, device=device, **options):
        rows.append(run(pack))
        indices += pack.indices
    joined = torch.cat(rows)
    return torch.empty_like(joined).index_copy_(0, on_device(np.array(indices), device), joined)


def _grouped(lengths: Numbers, budget: int) -> Iterator[Numbers]:
    """Indices of texts, sorted by length, so many together as the budget allows."""
    order = np.argsort(-lengths, kind="stable")
    ends = lengths[order].cumsum()
    begin, before = 0, 0
    while begin < len(order):
        end = max(begin + 1, int(np.searchsorted(ends, before + budget, side="right")))
        yield order[begin:end]
        begin, before = end, int(ends[end - 1])
