"""Prompts that are read in groups of like length."""

import itertools
from typing import Any

import pytest
import torch

from flagai.generation import generate, prefill
from flagai.model.layer.cache import KVCache
from tests.generation.test_properties import same
from tests.generation.writers import GRID, SEARCHES, writer


def cost(lengths: list[int], found: list[list[int]], cores: int) -> int:
    return sum(len(group) * max(lengths[text] for text in group) + prefill._CALL * cores for group in found)


@pytest.mark.parametrize(
    "lengths", [[5], [9, 9, 9], [300, 4, 290, 5, 6], [1, 200, 400, 600], [50, 40, 30, 20, 10], [64, 129, 1, 128, 65]]
)
@pytest.mark.parametrize("cores", [1, 2])
def test_groups_are_the_cheapest(lengths: list[int], cores: int) -> None:
    found = prefill.like_length(lengths, cores)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(lengths[group[0]] == max(lengths[text] for text in group) for group in found)
    ways = itertools.product(range(len(lengths)), repeat=len(lengths))  # the group of each text
    least = min(
        cost(lengths, [[text for text, its in enumerate(way) if its == group] for group in set(way)], cores)
        for way in ways
    )
    assert cost(lengths, found, cores) == least


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_groups_change_no_answer(kind: str, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = writer(kind)
    decoding = writing.decoding(**SEARCHES[search])
    wanted = generate(writing.model, writing.prompts, decoding)
    parts = []
    reading = prefill.read_apart

    def counted(*arguments: Any) -> Any:
        parts.append(len(arguments[0]))
        return reading(*arguments)

    def unclean(cache: KVCache, *arguments: Any) -> torch.Tensor:
        return moved(cache, *arguments).fill_(torch.nan) if not cache.length else moved(cache, *arguments)

    moved = KVCache._moved
    monkeypatch.setattr("flagai.generation.decoding_state.read_apart", counted)
    monkeypatch.setattr(KVCache, "_moved", unclean)  # memory that holds no numbers
    monkeypatch.setattr(prefill, "_CALL", 0)
    for ours, theirs in zip(generate(writing.model, writing.prompts, decoding), wanted, strict=True):
        same(ours, theirs)
    assert bool(parts) == (kind != "t5")
    assert all(count > 1 for count in parts)
