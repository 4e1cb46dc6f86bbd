"""Metrics beside seqeval, scikit-learn, SciPy, rouge-score and rouge-chinese."""

import random

import numpy
import pytest
from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval.metrics import classification_report, f1_score
from sklearn import metrics as sklearn

from flagai.data.prepare.labels import decode
from flagai.train import metrics

CHANCE = random.Random(3)


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    names = sorted({*tags, "O", "B-A", "I-A"})
    found = decode([names.index(tag) for tag in tags], names, [(i, i + 1) for i in range(len(tags))])
    return {(span.start, span.end, span.label) for span in found}


@pytest.mark.parametrize("marks", ["BI", "BIES"])
def test_entities_are_scored_as_by_seqeval(marks: str) -> None:
    names = ["O", "O", *(f"{mark}-{kind}" for mark in marks for kind in "AB")]
    gold = [[CHANCE.choice(names) for _ in range(12)] for _ in range(40)]
    found = [[tag if CHANCE.random() < 0.7 else CHANCE.choice(names) for tag in row] for row in gold]
    ours = metrics.scores_by_class(map(spans, found), map(spans, gold))
    report = classification_report(gold, found, output_dict=True, zero_division=0)
    for kind, scores in ours.items():
        assert (scores.precision, scores.recall, scores.f1, scores.support) == pytest.approx(
            tuple(report[kind][name] for name in ("precision", "recall", "f1-score", "support"))
        )
    assert metrics.micro_scores(ours)["f1"] == pytest.approx(f1_score(gold, found))
    assert metrics.macro_f1(ours) == pytest.approx(f1_score(gold, found, average="macro"))


def test_classes_are_scored_as_by_scikit_learn() -> None:
    gold, found = ([CHANCE.choice("abcd"[:n]) for _ in range(200)] for n in (3, 4))
    ours = metrics.scores_by_class(([(name,)] for name in found), ([(name,)] for name in gold))
    report = sklearn.classification_report(gold, found, output_dict=True, zero_division=0)
    for kind, scores in ours.items():
        wanted = tuple(report[kind][name] for name in ("precision", "recall", "f1-score", "support"))
        assert (scores.precision, scores.recall, scores.f1, scores.support) == pytest.approx(wanted)
    assert metrics.macro_f1(ours) == pytest.approx(sklearn.f1_score(gold, found, average="macro"))
    assert metrics.accuracy(found, gold) == pytest.approx(sklearn.accuracy_score(gold, found))


def test_correlations_and_the_roc_curve() -> None:
    first = [round(CHANCE.random(), 1) for _ in range(60)]
    second = [value + round(CHANCE.gauss(0, 0.3), 1) for value in first]
    assert metrics.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert metrics.pearson(first, second) == pytest.approx(numpy.corrcoef(first, second)[0, 1])
    positive = [value > 0.5 for value in first]
    assert metrics.roc_auc(second, positive) == pytest.approx(sklearn.roc_auc_score(positive, second))
    assert metrics.pearson([1, 1], [1, 2]) == metrics.spearman([1, 1], [1, 2]) == 0


ENGLISH = [("The cat's 2 mats", "the cat sat on 2 mats, mats"), ("a", "b"), ("a b a b", "b a b a"), ("", "x")]
CHINESE = [("北京今天下雨", "北京下大雨"), ("上海上海", "上海"), ("AI时代，新闻", "人工智能（AI）时代"), ("雨", "晴")]


@pytest.mark.parametrize(("written", "reference"), ENGLISH)
def test_words_are_compared_as_by_rouge_score(written: str, reference: str) -> None:
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, written)
    ours = metrics.rouge(written, reference)
    assert list(ours.values()) == pytest.approx([theirs[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")])


@pytest.mark.parametrize(("written", "reference"), CHINESE)
def test_characters_are_compared_as_by_rouge_chinese(written: str, reference: str) -> None:
    (theirs,) = Rouge(exclusive=False).get_scores(" ".join(written), " ".join(reference))
    ours = metrics.rouge(written, reference)
    assert list(ours.values()) == pytest.approx([theirs[f"rouge-{kind}"]["f"] for kind in "12l"], abs=1e-6)
    assert ours["rouge_l"] == metrics.rouge_l(written, reference)
