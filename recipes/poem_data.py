"""Learns the data of flagai.poetry from poems: tones, the thirty rhymes, and how often characters recur.

    python recipes/poem_data.py --data DIR

DIR holds ``train.jsonl.gz`` and ``pingze.json`` as ``glm_mini_ch.py`` takes them. The rhymes are learned, not copied
from a book: a poem has one rhyme of thirty, drawn by its frequency, and the ends of its rhyming lines are drawn from
that rhyme's characters; expectation maximization finds both. A few characters of each rhyme of the Pingshui book, which
poets kept to, are its seeds. It takes half a minute and is deterministic.
"""

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from poem_rules import lines

OUT = Path(__file__).parent.parent / "src/flagai/poetry/data.json"
SEEDS = [
    "东风中空红",
    "冬峰龙钟容",
    "江窗双",
    "支枝诗时迟知",
    "微归飞衣稀",
    "鱼书居余疏",
    "虞无湖图孤",
    "齐西啼溪低",
    "佳怀阶",
    "灰来开台回",
    "真人春新尘",
    "文云闻君分",
    "元门村源言",
    "寒看难残安",
    "删山间还关",
    "先天年烟前",
    "萧潮桥遥消",
    "肴茅交郊",
    "豪高毛劳",
    "歌多何波过",
    "麻花家斜沙",
    "阳长香光乡",
    "庚生情声明",
    "青星亭庭",
    "蒸僧灯陵",
    "尤秋流愁楼",
    "侵心深林吟",
    "覃南谈",
    "盐帘檐",
    "咸岩帆",
]
_ROUNDS = 40
_SMALLEST = 1e-12
# A character belongs to the rhyme of a third of the lines that it ends, and of twenty lines at least.
_SHARE, _LEAST = 1 / 3, 20
# Limits are what so many poems of a form keep.
_KEPT = 0.95


def rhyme_groups(poems: Iterable[str], tones: dict[str, str]) -> dict[str, str]:
    """The characters of each rhyme, by its first seed; the most frequent first.

    Args:
        poems: the poems.
        tones: character -> 平, 仄 or 中 (either).
    """
    rows = [ends for poem in poems if (ends := _rhyming_ends(lines(poem), tones))]
    characters = sorted({character for row in rows for character in row})
    index = {character: number for number, character in enumerate(characters)}
    table = np.full((len(rows), max(map(len, rows))), len(characters))
    for row, ends in enumerate(rows):
        table[row, : len(ends)] = [index[character] for character in ends]
    counts = _counts_of_rhymes(table, index)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), _SMALLEST)
    belongs = (shares >= _SHARE) & (counts >= _LEAST)
    return {
        seeds[0]: "".join(
            characters[number] for number in np.argsort(-counts[:, group], kind="stable") if belongs[number, group]
        )
        for group, seeds in enumerate(SEEDS)
    }


def _rhyming_ends(verses: Sequence[str], tones: dict[str, str]) -> list[str]:
    """The last characters of the even lines, where they are level; a first line may borrow a neighbouring rhyme."""
    ends = [verse[-1] for verse in verses[1::2]]
    return [] if any(tones.get(end) == "仄" for end in ends) else ends


def _counts_of_rhymes(table: np.ndarray[Any, Any], index: dict[str, int]) -> np.ndarray[Any, Any]:
    """How often each character ends a line of each rhyme, [characters, rhymes]."""
    count, groups = len(index), len(SEEDS)
    chances = np.full((count, groups), 1e-3 / groups)
    for group, seeds in enumerate(SEEDS):
        chances[[index[seed] for seed in seeds if seed in index], group] += 1
    chances /= chances.sum(0)
    frequency = np.full(groups, 1 / groups)
    for _ in range(_ROUNDS):
        logs = np.vstack([np.log(chances + _SMALLEST), np.zeros((1, groups))])  # the last row fills shorter poems
        scores = np.log(frequency) + logs[table].sum(1)
        found = np.exp(scores - scores.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
        frequency = found.mean(0)
        counts = np.zeros((count + 1, groups))
        for column in table.T:
            np.add.at(counts, column, found)
        counts = counts[:count]
        chances = (counts + 1e-4) / (counts + 1e-4).sum(0)
    return counts


def recurrence(poem: str) -> tuple[int, int, int]:
    """How often a poem has its most frequent character, characters again that it had, and doubled ones (潇潇).

    Args:
        poem: the poem.
    """
    verses = lines(poem)
    found = Counter("".join(verses))
    doubled = sum(one == other for verse in verses for one, other in pairwise(verse))
    return max(found.values()), sum(found.values()) - len(found) - doubled, doubled


def limits(poems: Sequence[dict[str, str]]) -> dict[str, dict[str, int]]:
    """The least limits that most poems of a form keep, see :func:`recurrence`."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for poem in poems:
        found.setdefault(poem["form"], []).append(recurrence(poem["text"]))
    return {
        form: {
            name: int(np.quantile([row[column] for row in rows], _KEPT, method="inverted_cdf"))
            for column, name in enumerate(("uses", "again", "doubled"))
        }
        for form, rows in sorted(found.items())
    }


def main() -> None:
    """Write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    tones = json.loads((given.data / "pingze.json").read_text(encoding="utf-8"))
    with gzip.open(given.data / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        poems = [json.loads(line) for line in file]
    found = {
        "source": "recipes/poem_data.py, from chinese-poetry (MIT licence; the poems are in the public domain)",
        "tones": {tone: "".join(sorted(char for char, own in tones.items() if own == tone)) for tone in "平仄中"},
        "rhymes": rhyme_groups((poem["text"] for poem in poems), tones),
        "limits": limits(poems),
    }
    given.out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
