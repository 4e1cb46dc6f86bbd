"""Measures of the field, on plain Python values."""

import math
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

# Han, kana, Bopomofo and full width: a title with one of them is compared by characters.
_BY_CHARACTERS = re.compile("[\u2e80-\u312f\u3190-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]")
_WORD = re.compile("[a-z0-9]+")


def accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """The share of predicted labels that equal the gold ones."""
    return sum(one == other for one, other in zip(predicted, gold, strict=True)) / max(1, len(gold))


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of a class.

    Args:
        precision: the share of answers of this class that are right.
        recall: the share of the data's that were found.
        f1: their harmonic mean.
        support: how often the data has the class.
        right: how many answers are right.
        found: how many answers there are.
    """

    precision: float
    recall: float
    f1: float
    support: int
    right: int
    found: int

    @classmethod
    def of(cls, right: int, found: int, wanted: int) -> "ClassScores":
        """The scores that counts mean.

        Args:
            right: the number of right answers.
            found: the number of answers.
            wanted: how often the data has the class.
        """
        f1 = 2 * right / max(1, found + wanted)
        return cls(right / max(1, found), right / max(1, wanted), f1, wanted, right, found)


def scores_by_class(
    predicted: Iterable[Collection[tuple[Any, ...]]], gold: Iterable[Collection[tuple[Any, ...]]]
) -> dict[str, ClassScores]:
    """The scores of each class, by alphabet.

    Args:
        predicted: of each text what was found, such as entities (start, end, type); the last part is the class.
        gold: of each text what the data says.

    Returns:
        The scores by the names of the classes.
    """
    right, found, wanted = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(map(set, predicted), map(set, gold), strict=True):
        for counter, items in ((right, one & other), (found, one), (wanted, other)):
            counter.update(item[-1] for item in items)
    return {kind: ClassScores.of(right[kind], found[kind], wanted[kind]) for kind in sorted({*found, *wanted})}


def micro_scores(classes: Mapping[str, ClassScores]) -> dict[str, float]:
    """Precision, recall and F1 over all classes together.

    Of entities, right are those whose borders and type are right.

    Args:
        classes: the scores of each class.

    Returns:
        "precision", "recall" and "f1".

    Source:
        Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task".
    """
    each = classes.values()
    total = ClassScores.of(sum(c.right for c in each), sum(c.found for c in each), sum(c.support for c in each))
    return {"precision": total.precision, "recall": total.recall, "f1": total.f1}


def entity_scores(
    predicted: Iterable[Collection[tuple[Any, ...]]], gold: Iterable[Collection[tuple[Any, ...]]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities: right are those whose borders and type are right.

    Args:
        predicted: the entities that were found in each text.
        gold: the entities that are in each text.

    Returns:
        "precision", "recall" and "f1".
    """
    return micro_scores(scores_by_class(predicted, gold))


def macro_f1(classes: Mapping[str, ClassScores]) -> float:
    """The mean F1 of the classes, each counting the same."""
    return sum(scores.f1 for scores in classes.values()) / max(1, len(classes))


def perplexity(loss: float) -> float:
    """The exponential of the mean loss per token."""
    return math.exp(min(loss, 700.0))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of the ranks of the first values and the second; equal values share their mean rank.

    Returns:
        -1 to 1; 0 if one side is constant.
    """
    return pearson(ranks(first), ranks(second))


def pearson(first: Sequence[float] | numpy.ndarray, second: Sequence[float] | numpy.ndarray) -> float:
    """The linear correlation of the first values and the second.

    Returns:
        -1 to 1; 0 if one side is constant.
    """
    x, y = (numpy.asarray(values, dtype=float) - numpy.mean(values) for values in (first, second))
    norm = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / norm if norm else 0.0


def ranks(values: Sequence[float]) -> numpy.ndarray:
    """The rank of each value from 1 on; equal values share their mean rank."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    found: numpy.ndarray = (counts.cumsum() - (counts - 1) / 2)[place]
    return found


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The area under the ROC curve: how probable it is that a positive has a higher score than a negative.

    Args:
        scores: the model's number for each text.
        positive: whether the text is a positive one.

    Returns:
        0 to 1; 0.5 by chance.
    """
    true = numpy.asarray(positive, dtype=bool)
    count, others = int(true.sum()), int((~true).sum())
    return float(ranks(scores)[true].sum() - count * (count + 1) / 2) / max(1, count * others)


def rouge(written: str, reference: str) -> dict[str, float]:
    """The F1 of ROUGE-1, ROUGE-2 and ROUGE-L.

    Tokens are characters without blanks where the reference has Chinese or Japanese ones, else words of Latin letters
    and digits in lower case.

    Args:
        written: the model's text.
        reference: the data's.

    Returns:
        "rouge_1", "rouge_2" and "rouge_l", 0 to 1.

    Source:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    if _BY_CHARACTERS.search(reference):
        ours, theirs = _characters(written), _characters(reference)
    else:
        ours, theirs = _WORD.findall(written.lower()), _WORD.findall(reference.lower())
    found = {f"rouge_{n}": _common(_grams(ours, n), _grams(theirs, n)) for n in (1, 2)}
    return found | {"rouge_l": _longest_common(ours, theirs)}


def rouge_l(written: str, reference: str) -> float:
    """ROUGE-L of a text that was written against a reference: the F1 of their longest common subsequence of characters.

    Returns:
        0 to 1; spaces do not count.
    """
    return _longest_common(_characters(written), _characters(reference))


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _common(ours: Counter[tuple[str, ...]], theirs: Counter[tuple[str, ...]]) -> float:
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """The F1 of the longest common subsequence."""
    row = [0] * (len(theirs) + 1)
    for item in ours:
        diagonal = 0
        for place, other in enumerate(theirs, 1):
            above = row[place]
            row[place] = diagonal + 1 if item == other else max(above, row[place - 1])
            diagonal = above
    return 2 * row[-1] / max(1, len(ours) + len(theirs))
