"""Measures of the field, on plain Python values."""

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy


def accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """The share of predicted labels that equal the gold ones."""
    return sum(one == other for one, other in zip(predicted, gold, strict=True)) / max(1, len(gold))


def entity_scores(predicted: Iterable[Iterable[Hashable]], gold: Iterable[Iterable[Hashable]]) -> dict[str, float]:
    """Precision, recall and F1 of entities: right are those whose borders and type are right.

    Args:
        predicted: the entities that were found in each text.
        gold: the entities that are in each text.

    Returns:
        "precision", "recall" and "f1".

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
    """The correlation of the ranks of the first values and the second; equal values share their mean rank.

    Returns:
        -1 to 1; 0 if one side is constant.
    """
    x, y = _ranks(first), _ranks(second)
    norm = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / norm if norm else 0.0


def _ranks(values: Sequence[float]) -> numpy.ndarray:
    """The ranks of values, less their mean."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ranks: numpy.ndarray = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks - ranks.mean()


def rouge_l(written: str, reference: str) -> float:
    """ROUGE-L of a text that was written against a reference: the F1 of their longest common subsequence of characters.

    Returns:
        0 to 1; spaces do not count.

    Source:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    ours, theirs = "".join(written.split()), "".join(reference.split())
    row = [0] * (len(theirs) + 1)  # of the table of longest common subsequences
    for item in ours:
        diagonal = 0
        for place, other in enumerate(theirs, 1):
            above = row[place]
            row[place] = diagonal + 1 if item == other else max(above, row[place - 1])
            diagonal = above
    return 2 * row[-1] / max(1, len(ours) + len(theirs))
