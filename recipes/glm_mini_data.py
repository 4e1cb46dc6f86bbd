"""The data of GLM-mini-ch: files, and batches of equal size."""

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from glm_mini_tasks import Example, Record, Rows
from torch.utils.data import Dataset, Sampler

from flagai.data.prepare import glm

# Rows are padded to a multiple of this; few shapes keep the kernels fast.
_GRAIN = 16


def read(folder: Path, name: str, split: str, limit: int | None = None) -> list[Record]:
    """The rows of a file of JSON lines."""
    with gzip.open(folder / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(limit or 10**9), file, strict=False)]


Spec = tuple[float, list[tuple[str, int, int]]]


class Batches(Dataset[dict[str, Any]]):
    """Makes a batch of what the sampler names; runs in worker processes.

    Args:
        rows: makes inputs.
        tasks: from :func:`glm_mini_tasks.examples`.
    """

    def __init__(self, rows: Rows, tasks: dict[str, list[Example]]) -> None:
        self.rows = rows
        self.tasks = tasks

    def __getitem__(self, spec: Spec) -> dict[str, Any]:
        """Arrays for the model, and how many passes over the poems are done."""
        done, picks = spec
        rows = [self.rows.row(task, self.tasks[task][index], random.Random(seed)) for task, index, seed in picks]
        # Arrays go through a pipe: shared memory is small on some machines.
        return arrays(rows, self.rows.tokenizer.get_command_id("pad")) | {"passes": done}


def arrays(rows: Sequence[glm.GLMInput], pad: int) -> dict[str, Any]:
    """Rows as arrays, padded to a round width; only the positions that predict something have logits."""
    width = _round(max(len(entry.ids) for entry in rows))
    asked = [[place for place, weight in enumerate(entry.weights) if weight] for entry in rows]
    most = _round(max(map(len, asked)))
    found = {name: numpy.zeros((len(rows), most), numpy.int16) for name in ("logits_at", "target_ids", "loss_mask")}
    found["input_ids"] = numpy.full((len(rows), width), pad, numpy.int16)
    found["position_ids"] = numpy.zeros((len(rows), 2, width), numpy.int16)
    for index, (entry, places) in enumerate(zip(rows, asked, strict=True)):
        count = len(entry.ids)
        found["input_ids"][index, :count] = entry.ids
        found["position_ids"][index, 0, :count] = entry.positions
        found["position_ids"][index, 1, :count] = entry.blocks
        found["logits_at"][index, : len(places)] = places
        found["target_ids"][index, : len(places)] = [entry.targets[place] for place in places]
        found["loss_mask"][index, : len(places)] = 1
    found["attention_mask"] = numpy.array([entry.separator for entry in rows], numpy.int16)
    return found


def _round(count: int) -> int:
    return -(-max(count, 1) // _GRAIN) * _GRAIN


class Passes(Sampler[Spec]):
    """Names the examples of batch after batch, without end: every pass has each poem once, in a new order.

    Args:
        tasks: from :func:`glm_mini_tasks.examples`.
        shares: how often a pass sees the examples of each task.
        tokens: how many tokens, padding included, a batch may have.
        seed: of the order.
    """

    def __init__(self, tasks: dict[str, list[Example]], shares: Mapping[str, float], tokens: int, seed: int) -> None:
        self.tasks = {task: entries for task, entries in tasks.items() if entries and shares[task]}
        self.shares = shares
        self.tokens = tokens
        self.seed = seed
        self.lengths = {
            task: numpy.array([_length(task, entry) for entry in entries]) for task, entries in self.tasks.items()
        }

    def __iter__(self) -> Iterator[Spec]:
        """Batch after batch."""
        number = 0
        while True:
            batches = self.batches_of(number)
            for place, batch in enumerate(batches):
                yield number + place / len(batches), batch
            number += 1

    def batches_of(self, number: int) -> list[list[tuple[str, int, int]]]:
        """The batches of a pass, of one kind of row each."""
        chance = numpy.random.default_rng((self.seed, number))
        names, picks, lengths = [], [], []
        for task, known in self.lengths.items():
            wanted = self.shares[task] * len(known)
            whole = numpy.concatenate([chance.permutation(len(known)) for _ in range(int(wanted / len(known)) + 1)])
            whole = whole[: int(wanted)]
            names += [task] * len(whole)
            picks.append(whole)
            lengths.append(known[whole])
        length, pick = numpy.concatenate(lengths), numpy.concatenate(picks)
        seeds = chance.integers(0, 2**31, len(pick))
        # Blanks need another mask than what is written from left to right: they have batches of their own.
        blank = numpy.array([name.endswith("blank") for name in names])
        order = numpy.argsort(length + chance.random(len(length)) * 4 + 10_000 * blank, kind="stable")
        parts = (order[~blank[order]], order[blank[order]])
        batches = [batch for part in parts for batch in _cut(part, length, self.tokens)]
        chance.shuffle(batches)
        return [[(names[entry], int(pick[entry]), int(seeds[entry])) for entry in batch] for batch in batches]


def _length(task: str, example: Example) -> int:
    """About how many tokens a row has; blank filling writes its spans behind the text."""
    if task == "text_echo":
        return len(example.source) + 24
    count = len(example.source) + len(example.target) + 4
    return count + count // 4 if task.endswith("blank") else count


def _cut(order: Any, lengths: Any, tokens: int) -> Iterator[list[int]]:
    group: list[int] = []
    for entry in order.tolist():
        if group and (len(group) + 1) * (int(lengths[entry]) + _GRAIN) > tokens:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def fixed_batches(rows: Rows, task: str, entries: Sequence[Example], tokens: int) -> Iterator[dict[str, Any]]:
    """Batches for evaluation, always the same.

    Args:
        rows: makes inputs.
        task: the task of the examples.
        entries: the examples.
        tokens: how many tokens a batch may have.
    """
    made = sorted((rows.row(task, entry, None) for entry in entries), key=lambda entry: len(entry.ids))
    lengths = numpy.array([len(entry.ids) for entry in made])
    for group in _cut(numpy.arange(len(made)), lengths, tokens):
        yield arrays([made[index] for index in group], rows.tokenizer.get_command_id("pad"))
