"""The data of GLM-mini-ch: files of JSON lines, and all tokens of them in one memory-mapped file."""

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from glm_mini_tasks import Record

from flagai.data.tokenizer import Tokenizer

# Each part of the corpus: its folder and split; the fields that are tokenised.
_POEM, _ARTICLE = ("prompt", "text", "title"), ("text", "title")
PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "poems_train": ("poetry", "train", _POEM),
    "poems_more": ("poetry_more", "train", _POEM),
    "poems_valid": ("poetry", "valid", _POEM),
    "poems_test": ("poetry", "test", _POEM),
    "articles_train": ("zh_title_csl", "train", _ARTICLE),
    "articles_valid": ("zh_title_csl", "valid", _ARTICLE),
    "articles_test": ("zh_title_csl", "test", _ARTICLE),
    "laws_train": ("zh_title_law", "train", _ARTICLE),
    "laws_test": ("zh_title_law", "test", _ARTICLE),
    "laws_more": ("law_articles", "train", _ARTICLE),
}
_SPLITS = ("train", "valid", "test")
# Parts that a run can do without.
_OPTIONAL = ("poems_more", "laws_more")


def read(folder: Path, name: str, split: str, limit: int | None = None) -> list[Record]:
    """The rows of a file of JSON lines."""
    with gzip.open(folder / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(limit or 10**9), file, strict=False)]


def read_parts(folder: Path, limit: int | None = None, only: Sequence[str] = _SPLITS) -> dict[str, list[Record]]:
    """The rows of every part; those of an optional part that is missing are none.

    Args:
        folder: the data folder.
        limit: the most rows of a part.
        only: the splits to read.
    """
    return {
        part: [] if part in _OPTIONAL and not (folder / name).is_dir() else read(folder, name, split, limit)
        for part, (name, split, _) in PARTS.items()
        if split in only
    }


def write_corpus(path: Path, tokenizer: Tokenizer, parts: dict[str, list[Record]], kept: Sequence[int]) -> None:
    """Write the tokens of all parts: one array of tokens, the ends of texts in it, and the counts of rows.

    Args:
        path: a folder.
        tokenizer: the model's.
        parts: from :func:`read_parts`.
        kept: the numbers of the poems for training that keep all rules.
    """
    path.mkdir(parents=True, exist_ok=True)
    ends, tokens, total = [], [], 0
    for part, rows in parts.items():
        for field in PARTS[part][2]:
            texts = [f"{row['title']}：{row['form']}" if field == "prompt" else row[field] for row in rows]
            for encoding in tokenizer.encode_batch([text.lower() for text in texts]):
                ids = numpy.array(encoding.ids, numpy.uint16)
                tokens.append(ids)
                total += len(ids)
                ends.append(total)
    numpy.save(path / "tokens.npy", numpy.concatenate(tokens))
    numpy.save(path / "ends.npy", numpy.array(ends, numpy.uint32))
    numpy.save(path / "kept.npy", numpy.array(kept, numpy.int32))
    counts = {part: len(rows) for part, rows in parts.items()}
    (path / "counts.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")


class Corpus:
    """What :func:`write_corpus` wrote, memory-mapped.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.tokens: Any = numpy.load(path / "tokens.npy", mmap_mode="r")
        ends = numpy.load(path / "ends.npy")
        self.kept: list[int] = numpy.load(path / "kept.npy").tolist()
        self._bounds = numpy.concatenate([[0], ends]).astype(numpy.int64)
        counts = json.loads((path / "counts.json").read_text(encoding="utf-8"))
        self._first, place = {}, 0
        for part, count in counts.items():
            for field in PARTS[part][2]:
                self._first[part, field] = (place, count)
                place += count

    def texts(self, part: str, field: str) -> Sequence[tuple[int, ...]]:
        """The tokens of a field of every row of a part."""
        place, count = self._first[part, field]
        bounds = self._bounds[place : place + count + 1].tolist()
        flat = self.tokens[bounds[0] : bounds[-1]].tolist()
        start = bounds[0]
        return [tuple(flat[one - start : two - start]) for one, two in itertools.pairwise(bounds)]
