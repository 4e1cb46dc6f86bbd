"""Many texts through an encoder without padding: cut into packs, run, put back in order.

A pack is one row of texts that stand one after the other; every layer but attention sees one long text, so nothing
is computed for padding. Texts are packed by length: neighbours of equal length then share one attention call.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch

from flagai.errors import InputError
from flagai.model.layer.packed_row import PackedRow, check_length

# Tokens of one pack. On a CPU the activations of a block should stay in its caches; a GPU wants to be filled.
_CPU_TOKENS = 1024
_GPU_TOKENS = 32768

Result = TypeVar("Result")
Ids = Sequence[int]


@dataclass(frozen=True)
class Pack:
    """Texts in one row, on the model's device.

    Args:
        indices: which of all texts these are, in the order of the row.
        row: where they lie.
        input_ids: their tokens, [1, T].
        token_type_ids: their segments, [1, T], if there are any.
    """

    indices: tuple[int, ...]
    row: PackedRow
    input_ids: torch.Tensor
    token_type_ids: torch.Tensor | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What an encoder's ``forward`` takes."""
        arguments: dict[str, Any] = {"input_ids": self.input_ids, "lengths": self.row}
        return arguments if self.token_type_ids is None else arguments | {"token_type_ids": self.token_type_ids}


def packs(
    texts: Sequence[Ids],
    *,
    device: torch.device,
    token_type_ids: Sequence[Ids] | None = None,
    limit: int | None = None,
    tokens: int | None = None,
) -> Iterator[Pack]:
    """Cut texts into packs, the longest first.

    Args:
        texts: the token ids of every text.
        device: where the packs shall be.
        token_type_ids: the segment of every token of every text.
        limit: the model's number of positions.
        tokens: tokens of one pack, at most, unless one text has more; default what suits the device.

    Raises:
        InputError: a text is empty or longer than ``limit``, or its segments do not go with it.
    """
    lengths = [len(text) for text in texts]
    _check(lengths, token_type_ids, limit)
    budget = tokens or (_CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS)
    for indices in _grouped(lengths, budget):
        yield Pack(
            indices=tuple(indices),
            row=PackedRow(tuple(lengths[index] for index in indices)),
            input_ids=_joined(texts, indices, device),
            token_type_ids=None if token_type_ids is None else _joined(token_type_ids, indices, device),
        )


def run_packed(texts: Sequence[Ids], run: Callable[[Pack], Sequence[Result]], **options: Any) -> list[Result]:
    """Run texts in packs and return one result per text, in the order of the texts.

    Args:
        texts: the token ids of every text.
        run: computes the results of a pack, one per text, in the order of its row.
        **options: see :func:`packs`.

    Raises:
        InputError: see :func:`packs`.
    """
    found: dict[int, Result] = {}
    for pack in packs(texts, **options):
        found.update(zip(pack.indices, run(pack), strict=True))
    return [found[index] for index in range(len(texts))]


def _check(lengths: list[int], token_type_ids: Sequence[Ids] | None, limit: int | None) -> None:
    if 0 in lengths:
        raise InputError(f"Text {lengths.index(0)} has no tokens.")
    if limit is not None:
        check_length(lengths, limit)
    segments = lengths if token_type_ids is None else [len(row) for row in token_type_ids]
    if segments != lengths:
        raise InputError("token_type_ids must have one number for every token of every text.")


def _grouped(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices of texts, sorted by length, so many together as the budget allows."""
    group: list[int] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if group and total + lengths[index] > budget:
            yield group
            group, total = [], 0
        group.append(index)
        total += lengths[index]
    if group:
        yield group


def _joined(texts: Sequence[Ids], indices: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(chain.from_iterable(texts[index] for index in indices)))[None].to(device)
