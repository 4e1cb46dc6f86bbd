"""Measures of the field, on plain Python values."""

import math
from collections.abc import Hashable, Iterable, Sequence


def accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """The share of right answers."""
    return sum(one == other for one, other in zip(predicted, gold, strict=True)) / max(1, len(gold))


def entity_scores(predicted: Iterable[Iterable[Hashable]], gold: Iterable[Iterable[Hashable]]) -> dict[str, float]:
    """Precision, recall and F1 of entities: right are those whose borders and type are right.

    Args:
        predicted: the entities of each text.
        gold: what they should be.

    Source:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task".
    """
    right = found = wanted = 0
    for ours, theirs in zip(predicted, gold, strict=True):
        one, other = set(ours), set(theirs)
        right, found, wanted = right + len(one & other), found + len(one), wanted + len(other)
    precision, recall = right / max(1, found), right / max(1, wanted)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(1, found + wanted)}


def perplexity(loss: float) -> float:
    """The exponential of the mean loss per token."""
    return math.exp(min(loss, 700.0))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of ranks; equal values share their mean rank. 0 if one side is constant."""
    x, y = _ranks(first), _ranks(second)
    mean = (len(x) - 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True))
    norm = math.sqrt(sum((a - mean) ** 2 for a in x) * sum((b - mean) ** 2 for b in y))
    return covariance / norm if norm else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2
        start = end + 1
    return ranks


def rouge_l(written: str, reference: str) -> float:
    """ROUGE-L on characters: the F1 of the longest common subsequence, blanks aside.

    Args:
        written: what a model wrote.
        reference: what a person wrote.

    Source:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    ours, theirs = "".join(written.split()), "".join(reference.split())
    if not ours or not theirs:
        return 0.0
    return 2 * _longest_common(ours, theirs) / (len(ours) + len(theirs))


def _longest_common(first: str, second: str) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        diagonal = 0
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = diagonal + 1 if item == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
