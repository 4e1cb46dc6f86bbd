"""Attention to a pool of slots on a CPU, without copies where the keys of a text lie close together.

The engine reserves the slots of a text in one stretch where it can. Neighbouring rows of a slot table whose slots
overlap belong to one text: they attend to a view of its stretch, under a mask of the slots that each row names (tree
attention), or under none where each row names all of them. Neighbouring texts at equal distances are one call. Rows
whose keys lie far apart are gathered, few at a time. float32, 12 heads of 64, one core of a Xeon with AVX-512,
microseconds for each key of a stretch, or of a gathered row:

    rows of a text      1     4     8    16    32    64
    a stretch         .25   .48   .65   .90   1.5   2.6
    gathered, a row   .73   .97   .96   .94   .99   .94
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn import functional as F

from flagai.model.layer.paged_attention import SlotTable

# From the table above: W rows that read a stretch of S slots take as long as S * (7 + W) / 26 gathered keys.
_READ, _GATHERED = 7, 26
# Values by which texts may be padded to be one call: a call takes as long as 30 keys of 12 heads of 64.
_CALL = 30 * 12 * 64
# Values that are gathered at once, so that the copies stay in the cache of a core.
_AT_ONCE = 1 << 18

Numbers = np.ndarray[Any, np.dtype[np.int64]]
_Pair = tuple[torch.Tensor, torch.Tensor]


class _Text(NamedTuple):
    """Neighbouring rows whose slots overlap, and the stretch that has all of these slots."""

    begin: int
    rows: int
    start: int
    size: int
    used: int

    @property
    def reads_stretch(self) -> bool:
        """Whether reading the whole stretch is faster than gathering the rows' own slots."""
        return self.size * (_READ + self.rows) <= _GATHERED * self.used


@dataclass(frozen=True)
class _Call:
    """Rows that are computed together: texts of as many rows each, whose keys lie at equal distances.

    Args:
        begin: the first row.
        texts: number of texts.
        lanes: number of rows of each text.
        size: number of slots that each text reads.
        start: the first slot of the first text; None where the keys are gathered.
        step: how many slots a text begins behind the one before.
    """

    begin: int
    texts: int
    lanes: int
    size: int
    start: int | None = None
    step: int = 0

    @property
    def rows(self) -> slice:
        """The rows."""
        return slice(self.begin, self.begin + self.texts * self.lanes)


class _Scores:
    """Which scores of a table's rows are those of their keys; the scores of all rows are one line.

    Args:
        calls: how the rows are computed.
        slots: of each row, [T, L].
        lengths: of each row, [T].
    """

    def __init__(self, calls: Sequence[_Call], slots: Numbers, lengths: Numbers) -> None:
        self._calls = calls
        places = np.arange(slots.shape[1])
        offsets, sizes = np.empty_like(slots), np.empty_like(lengths)
        for call in calls:
            firsts = (call.start or 0) + call.step * np.arange(call.texts).repeat(call.lanes)
            offsets[call.rows] = places if call.start is None else slots[call.rows] - firsts[:, None]
            sizes[call.rows] = call.size
        ends = sizes.cumsum()
        allowed = places < lengths[:, None]
        where = (offsets + (ends - sizes)[:, None])[allowed]
        self._count, self._where = int(ends[-1]), torch.from_numpy(where)
        self._distances = torch.from_numpy((lengths[:, None] - 1 - places)[allowed])
        marks = np.zeros(self._count, np.int64)
        marks[where] = 1
        counts = np.add.reduceat(marks, ends - sizes)
        # Whether no row names a slot twice.
        self.distinct = bool((counts == lengths).all())
        self._full = [bool((counts[call.rows] == call.size).all()) for call in calls]

    def masks(self, dtype: torch.dtype, bias: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The scores to add in each call, [texts, H or 1, lanes, size]; None for nothing."""
        if bias is None and all(self._full):
            return [None] * len(self._calls)
        if bias is None:
            line = torch.full((1, self._count), -torch.inf, dtype=dtype).index_fill_(1, self._where, 0)
        else:
            line = torch.full((len(bias), self._count), -torch.inf, dtype=dtype)
            added = bias.to(dtype).index_select(1, self._distances.clamp(max=bias.shape[1] - 1))
            line.index_copy_(1, self._where, added)
        parts = line.split_with_sizes([call.texts * call.lanes * call.size for call in self._calls], 1)
        return [
            None if full and bias is None else part.view(-1, call.texts, call.lanes, call.size).transpose(0, 1)
            for call, part, full in zip(self._calls, parts, self._full, strict=True)
        ]


class Plan:
    """How the rows of a table are computed; the layers of a step share it.

    Args:
        table: the table.
        features: number of values of a key, in all heads.
        num_slots: number of slots of the pool.
    """

    def __init__(self, table: SlotTable, features: int, num_slots: int) -> None:
        lengths = table.lengths.numpy()
        longest = max(int(lengths.max()), 1)
        slots = table.slots.numpy()[:, :longest]
        # The engine may write the next step into the same tensors.
        self._seen = features, num_slots, longest, table.lengths.clone(), table.slots[:, :longest].clone()
        # The rows with keys; None for all.
        self.taken: torch.Tensor | None = None
        if not lengths.all():
            taken = np.flatnonzero(lengths)
            self.taken, lengths, slots = torch.from_numpy(taken), lengths[taken], slots[taken]
        # The slots of these rows, [T, L], and how many each has.
        self.slots, self.lengths = slots.astype(np.int64), lengths.astype(np.int64)
        # A row that is alone, and whose slots are neighbours in order, needs neither a choice nor a mask.
        self._is_simple = len(slots) == 1 and bool((np.diff(self.slots[0]) == 1).all())
        if self._is_simple:
            self.calls = [_Call(0, 1, 1, slots.shape[1], int(self.slots[0, 0]))]
        else:
            self.slots[np.arange(slots.shape[1]) >= self.lengths[:, None]] = 0
            self.calls = _choose(self.slots, self.lengths, features, num_slots)
        self._masks: tuple[torch.dtype, torch.Tensor | None, list[torch.Tensor | None]] | None = None

    def is_of(self, table: SlotTable, features: int, num_slots: int) -> bool:
        """Whether the table is still the same."""
        features_before, slots_before, longest, lengths, slots = self._seen
        return (
            features == features_before
            and num_slots == slots_before
            and torch.equal(table.lengths, lengths)
            and torch.equal(table.slots[:, :longest], slots)
        )

    @cached_property
    def _scores(self) -> _Scores:
        return _Scores(self.calls, self.slots, self.lengths)

    @cached_property
    def distinct(self) -> bool:
        """Whether no row names a slot twice."""
        return self._is_simple or not self.calls or self._scores.distinct

    def masks(self, dtype: torch.dtype, bias: torch.Tensor | None) -> list[torch.Tensor | None]:
        """See :meth:`_Scores.masks`; kept for the next layer."""
        if not self.calls or (bias is None and self._is_simple):
            return [None] * len(self.calls)
        if self._masks is None or self._masks[0] is not dtype or self._masks[1] is not bias:
            self._masks = dtype, bias, self._scores.masks(dtype, bias)
        return self._masks[2]

    def attend(self, query: torch.Tensor, pool: _Pair, bias: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """See :func:`~flagai.model.layer.paged_attention.paged_attention`; only if :attr:`distinct`."""
        rows = query if self.taken is None else query.index_select(0, self.taken)
        found = []
        for call, mask in zip(self.calls, self.masks(query.dtype, bias), strict=True):
            part = rows if len(self.calls) == 1 else rows[call.rows]
            heads = part.view(call.texts, call.lanes, *query.shape[1:]).transpose(1, 2)
            key, value = (self._read(tensor, call) for tensor in pool)
            grouped = key.shape[1] != heads.shape[1]
            attended = F.scaled_dot_product_attention(heads, key, value, mask, scale=scale, enable_gqa=grouped)
            found.append(attended.transpose(1, 2).flatten(0, 1))
        together = found[0] if len(found) == 1 else torch.cat(found) if found else rows
        return together if self.taken is None else query.new_zeros(query.shape).index_copy_(0, self.taken, together)

    def _read(self, pool: torch.Tensor, call: _Call) -> torch.Tensor:
        """The keys or values of the texts of a call, [texts, H, size, D]."""
        if call.start is None:
            index = torch.from_numpy(self.slots[call.rows, : call.size]).flatten()
            return pool.index_select(0, index).view(call.texts, call.size, *pool.shape[1:]).transpose(1, 2)
        slot, head, feature = pool.stride()
        strides = (call.step * slot, head, slot, feature)
        shape = (call.texts, pool.shape[1], call.size, pool.shape[2])
        return pool.as_strided(shape, strides, pool.storage_offset() + call.start * slot)


def _texts(slots: Numbers, lengths: Numbers, num_slots: int) -> list[_Text]:
    """The texts of rows that have keys each."""
    allowed = np.arange(slots.shape[1]) < lengths[:, None]
    low, high = np.where(allowed, slots, num_slots).min(1), slots.max(1)
    apart = (low[1:] > high[:-1]) | (high[1:] < low[:-1])
    begins = np.concatenate([[0], np.flatnonzero(apart) + 1])
    starts = np.minimum.reduceat(low, begins)
    sizes = np.maximum.reduceat(high, begins) + 1 - starts
    rows, used = np.diff(np.append(begins, len(slots))), np.add.reduceat(lengths, begins)
    return list(map(_Text, *(column.tolist() for column in (begins, rows, starts, sizes, used))))


def _choose(slots: Numbers, lengths: Numbers, features: int, num_slots: int) -> list[_Call]:
    """How rows that have keys each are computed, in their order."""
    texts = _texts(slots, lengths, num_slots) if len(slots) else []
    calls: list[_Call] = []
    while texts:
        if texts[0].reads_stretch:
            calls.append(_equally_far(texts, features, num_slots))
            texts = texts[calls[-1].texts :]
        else:
            calls += _gathered(texts.pop(0), lengths, features)
    return calls


def _equally_far(texts: Sequence[_Text], features: int, num_slots: int) -> _Call:
    """The first text, and those behind it that are worth computing in the same call."""
    first = texts[0]
    size, total, step, count = first.size, first.size, 0, 1
    for text in texts[1:]:
        distance = text.start - first.start - step * (count - 1)
        larger, together = max(size, text.size), total + text.size
        fits = distance > 0 and distance == (step or distance) and text.start + larger <= num_slots
        padded = (larger * (count + 1) - together) * features > _CALL * count
        if text.rows != first.rows or not fits or padded or not text.reads_stretch:
            break
        size, total, step, count = larger, together, distance, count + 1
    return _Call(first.begin, count, first.rows, size, first.start, step)


def _gathered(text: _Text, lengths: Numbers, features: int) -> list[_Call]:
    end = text.begin + text.rows
    size = int(lengths[text.begin : end].max())
    most = max(_AT_ONCE // (size * features), 1)
    return [_Call(first, min(most, end - first), 1, size) for first in range(text.begin, end, most)]


_PLANS: WeakKeyDictionary[SlotTable, Plan] = WeakKeyDictionary()


def plan_of(keys: torch.Tensor, table: SlotTable) -> Plan:
    """The plan of a table for a pool; that of an earlier layer, if the table is still the same."""
    num_slots, heads, size = keys.shape
    plan = _PLANS.get(table)
    if plan is None or not plan.is_of(table, heads * size, num_slots):
        plan = _PLANS[table] = Plan(table, heads * size, num_slots)
    return plan
