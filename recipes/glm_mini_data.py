"""The data of GLM-mini-ch: files, vocabulary, tasks, and batches of equal size."""

import gzip
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from torch.utils.data import Dataset, Sampler

from flagai.data.prepare import glm
from flagai.data.prepare.glm_pretraining import block_row, short_spans
from flagai.data.tokenizer import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_SOURCE, LONGEST_TARGET, LONGEST_TEXT = 314, 48, 320
# How often each task's examples are seen while every poem is written once.
SHARES = {
    "poem": 1.0,
    "poem_title": 0.1,
    "poem_blank": 0.3,
    "poem_recital": 0.15,
    "title": 2.5,
    "text_recital": 0.7,
    "text_blank": 0.5,
}
_LINE_END = frozenset("，。！？；")
# Rows are padded to a multiple of this; few shapes keep the kernels fast.
_GRAIN = 16

Record = dict[str, str]


def read(folder: Path, name: str, split: str, limit: int | None = None) -> list[Record]:
    """The rows of a file of JSON lines."""
    with gzip.open(folder / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(limit or 10**9), file, strict=False)]


# -- vocabulary -----------------------------------------------------------------------------------------------


def vocabulary(texts: Sequence[str]) -> list[str]:
    """A WordPiece vocabulary of characters, of letters and digits inside words, and of frequent Latin words.

    Args:
        texts: all texts of the training part.
    """
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in texts:
        lower = text.lower()
        characters.update(lower)
        words.update(re.findall("[a-z]{2,}", lower))
    kept = [character for character, count in characters.most_common() if count >= 2 and not character.isspace()]
    plain = sorted({*kept, *"abcdefghijklmnopqrstuvwxyz0123456789"})
    inner = [f"##{character}" for character in plain if not _stands_alone(character)]
    frequent = [word for word, count in words.most_common(400) if count >= 8]
    return list(dict.fromkeys([*SPECIAL, *plain, *inner, *sorted(frequent)]))


def _stands_alone(character: str) -> bool:
    """Han characters and punctuation are words of their own."""
    return "\u3400" <= character <= "\u9fff" or not character.isalnum()


# -- tasks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A text to learn from, as tokens.

    Args:
        source: what is read; empty for blank filling.
        target: what is written, or the text that loses spans.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


def examples(tokenizer: Tokenizer, poems: Sequence[Record], articles: Sequence[Record]) -> dict[str, list[Example]]:
    """The examples of every task.

    Args:
        tokenizer: the model's.
        poems: ``title``, ``form``, ``text``.
        articles: ``text``, ``title``.
    """
    prompts = _encode(tokenizer, [f"{poem['title']}：{poem['form']}" for poem in poems])
    verses = _encode(tokenizer, [poem["text"] for poem in poems])
    titles = _encode(tokenizer, [poem["title"] for poem in poems])
    texts = _encode(tokenizer, [article["text"] for article in articles])
    heads = _encode(tokenizer, [article["title"] for article in articles])
    return {
        "poem": _pairs(prompts, verses),
        "poem_title": _pairs(verses, titles),
        "poem_blank": [Example((), verse) for verse in verses],
        "poem_recital": recitals(tokenizer, verses, 1),
        "text_recital": recitals(tokenizer, texts, len(RECITALS)),
        "title": [
            Example(text[:LONGEST_SOURCE], head[:LONGEST_TARGET]) for text, head in zip(texts, heads, strict=True)
        ],
        "text_blank": [Example((), text[:LONGEST_TEXT]) for text in texts],
    }


# What of a text is asked for by which words before it: titles are mostly made of words of the text, and pairs of
# texts and titles are too few to learn from them how to copy.
RECITALS = ("首句：", "末句：", "要点：")


def recitals(tokenizer: Tokenizer, texts: Sequence[tuple[int, ...]], each: int) -> list[Example]:
    """Texts and ``each`` of their clauses: the first, the last, and the one most like the rest of the text."""
    asked = _encode(tokenizer, RECITALS)
    found = []
    for number, text in enumerate(texts):
        text = text[: LONGEST_SOURCE - 4]
        clauses = [clause for clause in _clauses(tokenizer, text) if 2 < len(clause) <= LONGEST_TARGET]
        if clauses:
            wanted = (clauses[0], clauses[-1], max(clauses, key=lambda clause: _likeness(clause, text)))
            kinds = [(number + place) % len(asked) for place in range(each)]
            found += [Example(asked[kind] + text, wanted[kind]) for kind in kinds]
    return found


def _clauses(tokenizer: Tokenizer, ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    ends = [-1, *_line_ends(tokenizer, ids), len(ids)]
    return [ids[start + 1 : end] for start, end in itertools.pairwise(ends) if end > start + 1]


def _likeness(clause: tuple[int, ...], text: tuple[int, ...]) -> float:
    """How much of a clause stands elsewhere in the text; long ones are worth more."""
    rest = Counter(text) - Counter(clause)
    return sum(token in rest for token in clause) / (len(clause) + 8)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(encoding.ids) for encoding in tokenizer.encode_batch([text.lower() for text in texts])]


def _pairs(sources: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]]) -> list[Example]:
    return [Example(source, target) for source, target in zip(sources, targets, strict=True)]


def row(tokenizer: Tokenizer, task: str, example: Example, chance: random.Random | None) -> glm.Row:
    """The input of an example.

    Args:
        tokenizer: the model's.
        task: its task.
        example: the example.
        chance: for training; None gives the plain form of evaluation.
    """
    if example.source:
        source = example.source
        if task == "title" and chance is not None and chance.random() < 0.5:
            source = _without_a_sentence(tokenizer, source, chance)
        return glm.causal_row(tokenizer, source, example.target)
    chance = chance or random.Random(len(example.target))
    ids = [tokenizer.get_command_id("cls"), *example.target, tokenizer.get_command_id("eos")]
    kind = chance.random()
    if kind < 0.4:
        spans = short_spans(len(ids), chance)
        if spans:
            return block_row(tokenizer, ids, spans)
    if kind < 0.7:
        span = _sentence(tokenizer, ids, chance)
        if span is not None:
            return block_row(tokenizer, ids, [span], "sMASK")
    start = chance.randint(min(2, len(ids) - 2), max(2, len(ids) * 3 // 4))
    return block_row(tokenizer, ids[:-1], [(start, len(ids) - 1)] if start < len(ids) - 1 else [], "gMASK")


def _line_ends(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    marks = _marks(tokenizer)
    return [place for place, token in enumerate(ids) if token in marks]


def _marks(tokenizer: Tokenizer) -> frozenset[int]:
    found = getattr(tokenizer, "line_marks", None)
    if found is None:
        found = frozenset(tokenizer.encode("".join(sorted(_LINE_END)) + ".;,")) - {tokenizer.get_command_id("unk")}
        tokenizer.line_marks = found  # type: ignore[attr-defined]  # looked up for every row
    return found


def _sentence(tokenizer: Tokenizer, ids: Sequence[int], chance: random.Random) -> tuple[int, int] | None:
    """A whole line or clause without its punctuation."""
    ends = [0, *_line_ends(tokenizer, ids)]
    spans = [(start + 1, end) for start, end in itertools.pairwise(ends) if 2 < end - start < 60]
    return chance.choice(spans) if spans else None


def _without_a_sentence(tokenizer: Tokenizer, ids: tuple[int, ...], chance: random.Random) -> tuple[int, ...]:
    """A text that lacks one of its clauses, so that no text is read twice in the same words."""
    ends = [-1, *_line_ends(tokenizer, ids)]
    if len(ends) < 4:
        return ids
    place = chance.randrange(1, len(ends) - 1)
    return ids[: ends[place] + 1] + ids[ends[place + 1] + 1 :]


# -- batches --------------------------------------------------------------------------------------------------

Spec = tuple[float, list[tuple[str, int, int]]]


class Batches(Dataset[dict[str, Any]]):
    """Makes a batch of what the sampler names; runs in worker processes.

    Args:
        tokenizer: the model's.
        tasks: from :func:`examples`.
    """

    def __init__(self, tokenizer: Tokenizer, tasks: dict[str, list[Example]]) -> None:
        self.tokenizer = tokenizer
        self.tasks = tasks
        _marks(tokenizer)  # once, before workers begin

    def __getitem__(self, spec: Spec) -> dict[str, Any]:
        """Arrays for the model, and how many passes over the poems are done."""
        done, picks = spec
        rows = [
            row(self.tokenizer, task, self.tasks[task][index], None if seed < 0 else random.Random(seed))
            for task, index, seed in picks
        ]
        # Arrays go through a pipe: shared memory is small on some machines.
        return arrays(rows, self.tokenizer.get_command_id("pad")) | {"passes": done}


def arrays(rows: Sequence[glm.Row], pad: int) -> dict[str, Any]:
    """Rows as :func:`flagai.data.prepare.glm.collate` gives them, as arrays, padded to a round width."""
    width = -(-max(len(entry.ids) for entry in rows) // _GRAIN) * _GRAIN
    found = {name: numpy.zeros((len(rows), width), numpy.int32) for name in ("input_ids", "target_ids", "loss_mask")}
    found["input_ids"][:] = pad
    found["position_ids"] = numpy.zeros((len(rows), 2, width), numpy.int32)
    for index, entry in enumerate(rows):
        count = len(entry.ids)
        found["input_ids"][index, :count] = entry.ids
        found["target_ids"][index, :count] = entry.targets
        found["loss_mask"][index, :count] = entry.weights
        found["position_ids"][index, 0, :count] = entry.positions
        found["position_ids"][index, 1, :count] = entry.blocks
    found["attention_mask"] = numpy.array([entry.separator for entry in rows], numpy.int32)
    return found


class Passes(Sampler[Spec]):
    """Names the examples of batch after batch, without end: every pass has each poem once, in a new order.

    Args:
        tasks: from :func:`examples`.
        tokens: how many tokens, padding included, a batch may have.
        seed: of the order.
    """

    def __init__(self, tasks: dict[str, list[Example]], tokens: int, seed: int) -> None:
        self.tasks = tasks
        self.tokens = tokens
        self.seed = seed
        self.lengths = {
            task: numpy.array([len(entry.source) + len(entry.target) + 4 for entry in entries])
            for task, entries in tasks.items()
        }

    def __iter__(self) -> Iterator[Spec]:
        """Batch after batch."""
        number = 0
        while True:
            batches = self._pass(number)
            for place, batch in enumerate(batches):
                yield number + place / len(batches), batch
            number += 1

    def _pass(self, number: int) -> list[list[tuple[str, int, int]]]:
        chance = numpy.random.default_rng((self.seed, number))
        names, picks, lengths = [], [], []
        for task, known in self.lengths.items():
            wanted = SHARES[task] * len(known)
            whole = numpy.concatenate([chance.permutation(len(known)) for _ in range(int(wanted / len(known)) + 1)])
            whole = whole[: int(wanted)]
            names += [task] * len(whole)
            picks.append(whole)
            # Blank filling writes its spans behind the text; longer rows beside shorter ones would be padded.
            lengths.append(known[whole] + (known[whole] // 4 if task.endswith("blank") else 0))
        length, pick = numpy.concatenate(lengths), numpy.concatenate(picks)
        seeds = chance.integers(0, 2**31, len(pick))
        order = numpy.argsort(length + chance.random(len(length)) * 4, kind="stable")
        batches = list(_cut(order, length, self.tokens))
        chance.shuffle(batches)
        return [[(names[entry], int(pick[entry]), int(seeds[entry])) for entry in batch] for batch in batches]


def _cut(order: Any, lengths: Any, tokens: int) -> Iterator[list[int]]:
    group: list[int] = []
    for entry in order.tolist():
        if group and (len(group) + 1) * (int(lengths[entry]) + _GRAIN) > tokens:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def fixed_batches(tokenizer: Tokenizer, task: str, entries: Sequence[Example], tokens: int) -> Iterator[dict[str, Any]]:
    """Batches for evaluation, always the same.

    Args:
        tokenizer: the model's.
        task: the task of the examples.
        entries: the examples.
        tokens: how many tokens a batch may have.
    """
    rows = sorted((row(tokenizer, task, entry, None) for entry in entries), key=lambda entry: len(entry.ids))
    lengths = numpy.array([len(entry.ids) for entry in rows])
    for group in _cut(numpy.arange(len(rows)), lengths, tokens):
        yield arrays([rows[index] for index in group], tokenizer.get_command_id("pad"))
