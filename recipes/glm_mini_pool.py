"""All rows that GLM-mini-ch learns from, on the device, and the batches of every pass.

Rows are made once, by several processes, and lie on the device in tables of equal width; a batch is a choice of rows of
one table. What a batch holds follows from the seed and the number of the step alone.
"""

import multiprocessing
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from glm_mini_tasks import EXCHANGED, LEAST_EXCHANGED, SHARES, VARIANTS, Rows, Tasks, expanded

from flagai.data.prepare import glm

_GRAIN, _FINE, _COARSE = 16, 128, 32
_CHUNK = 1000  # a multiple of the kinds of recitals
_EXTRA = ("positions", "blocks")

Key = tuple[bool, int]  # whether rows have blanks, and their width
Part = dict[Key, dict[str, Any]]


def width_of(count: int) -> int:
    """The width of the table of a row with so many tokens."""
    grain = _GRAIN if count <= _FINE else _COARSE
    return -(-count // grain) * grain


def tables(made: Sequence[tuple[int, glm.GLMInput]], pad: int) -> Part:
    """Rows as arrays of equal width.

    Args:
        made: the number of the task, and the row.
        pad: the token that fills rows up.
    """
    found: dict[Key, list[tuple[int, glm.GLMInput]]] = {}
    for task, row in made:
        found.setdefault((row.separator > 0, width_of(len(row.ids))), []).append((task, row))
    return {key: _table(rows, *key, pad) for key, rows in found.items()}


def _table(rows: Sequence[tuple[int, glm.GLMInput]], blanks: bool, width: int, pad: int) -> dict[str, Any]:
    names = ("ids", "targets", *(_EXTRA if blanks else ()))
    table = {name: numpy.zeros((len(rows), width), numpy.int16) for name in names}
    table["ids"] += pad
    table["targets"] -= 1
    for place, (_, row) in enumerate(rows):
        count = len(row.ids)
        table["ids"][place, :count] = row.ids
        weights = numpy.array(row.weights, bool)
        table["targets"][place, :count][weights] = numpy.array(row.targets, numpy.int16)[weights]
        if blanks:
            table["positions"][place, :count] = row.positions
            table["blocks"][place, :count] = row.blocks
    if blanks:
        table["separator"] = numpy.array([row.separator for _, row in rows], numpy.int16)
    table["task"] = numpy.array([task for task, _ in rows], numpy.int8)
    table["asked"] = (table["targets"] >= 0).sum(1).astype(numpy.int32)
    return table


@dataclass
class _Job:
    rows: Rows
    tasks: Tasks
    seed: int


_job: _Job | None = None  # what processes inherit


def _make(chunk: tuple[int, str, int, int]) -> Part:
    number, task, start, variant = chunk
    if _job is None:
        raise RuntimeError("There is nothing to make rows of.")
    made = []
    entries = expanded(_job.rows.tokenizer, task, _job.tasks[task][start : start + _CHUNK])
    for place, example in enumerate(entries, start):
        chance = random.Random(f"{_job.seed} {task} {place} {variant}")
        made.append((number, _job.rows.row(task, example, chance)))
    return tables(made, _job.rows.tokenizer.get_command_id("pad"))


def make(rows: Rows, tasks: Tasks, seed: int, workers: int) -> Part:
    """All rows: for each example of a task as many as ``VARIANTS`` says.

    Args:
        rows: makes a row.
        tasks: the examples; a task's number is its place in ``SHARES``.
        seed: of blanks, clauses left out and echoes.
        workers: number of processes; 0 for none.
    """
    global _job
    _job = _Job(rows, tasks, seed)
    chunks = [
        (number, task, start, variant)
        for number, task in enumerate(SHARES)
        for variant in range(VARIANTS.get(task, 1))
        for start in range(0, len(tasks[task]), _CHUNK)
    ]
    if workers:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            parts = pool.map(_make, chunks, chunksize=1)
    else:
        parts = list(map(_make, chunks))
    found: dict[Key, list[dict[str, Any]]] = {}
    for part in parts:
        for key, table in part.items():
            found.setdefault(key, []).append(table)
    return {
        key: {name: numpy.concatenate([table[name] for table in found[key]]) for name in found[key][0]}
        for key in sorted(found)
    }


class Pool:
    """The rows on the device, and which of them make the batches of a pass.

    Args:
        made: from :func:`make`.
        rows: what made them; it knows which characters may be exchanged.
        tokens: how many tokens a batch may have, padding included.
        seed: of the order.
        vocab_size: of the model.
        device: where the rows shall be.
    """

    def __init__(
        self,
        made: Part,
        rows: Rows,
        *,
        tokens: int,
        seed: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.tokens, self.seed, self.device = tokens, seed, device
        self.asked = {key: table.pop("asked") for key, table in made.items()}
        self.of_task = {key: table["task"] for key, table in made.items()}
        self.device_tables = {
            key: {name: torch.from_numpy(array).to(device) for name, array in table.items()}
            for key, table in made.items()
        }
        allowed = torch.zeros(2, vocab_size, dtype=torch.bool)
        for place, free in enumerate((rows.free, rows.content)):
            allowed[place, sorted(free)] = True
        self._titles = list(SHARES).index("title")
        self._allowed = allowed.to(device)
        self._rates = torch.tensor([EXCHANGED.get(name, 0.0) for name in SHARES], device=device)
        self._han = torch.tensor(rows.han, device=device)
        self._words = torch.arange(vocab_size, device=device)

    def batches_of(self, number: int, shares: Mapping[str, float]) -> list[tuple[Key, Any]]:
        """The batches of a pass: a table and rows of it.

        Args:
            number: of the pass.
            shares: rows for each example, by task.
        """
        chance = numpy.random.default_rng((self.seed, number))
        found: list[tuple[Key, Any]] = []
        for key, tasks in self.of_task.items():
            chosen = []
            for task, name in enumerate(SHARES):
                share = shares[name] / VARIANTS.get(name, 1)
                known = numpy.flatnonzero(tasks == task)
                wanted = chance.permutation(numpy.tile(known, -int(-share // 1) if share > 1 else 1))
                chosen.append(wanted[: int(len(known) * share + chance.random())])
            places = chance.permutation(numpy.concatenate(chosen))
            each = max(1, self.tokens // key[1])
            count = -(-len(places) // each)
            if count:  # the last batch is filled up by rows of the first
                found += [(key, batch) for batch in numpy.resize(places, (count, each))]
        chance.shuffle(found)
        return found

    def batch(self, key: Key, places: Any) -> tuple[dict[str, torch.Tensor], int]:
        """A batch, with characters exchanged by torch's random numbers, and the number of its targets."""
        table = self.device_tables[key]
        chosen = torch.from_numpy(places).to(self.device, non_blocking=True)
        found = {name: array[chosen].long() for name, array in table.items()}
        task = found.pop("task")
        if not key[0]:
            found["ids"], found["targets"] = self._exchanged(found["ids"], found["targets"], task)
        return found, int(self.asked[key][places].sum())

    def _exchanged(self, ids: torch.Tensor, targets: torch.Tensor, task: torch.Tensor) -> Any:
        """Exchange some characters of some rows for others, everywhere: the text alone says what the target is."""
        count, size = len(ids), len(self._words)
        share = LEAST_EXCHANGED + (1 - LEAST_EXCHANGED) * torch.rand(count, 1, device=ids.device)
        share *= torch.rand(count, 1, device=ids.device) < self._rates[task][:, None]
        change = torch.rand(count, size, device=ids.device) < share
        change &= self._allowed[(task == self._titles).long()]
        other = self._han[torch.randint(len(self._han), (count, size), device=ids.device)]
        new = torch.where(change, other, self._words)
        return new.gather(1, ids), torch.where(targets < 0, targets, new.gather(1, targets.clamp(min=0)))
