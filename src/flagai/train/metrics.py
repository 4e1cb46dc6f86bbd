"""Measures of the field, on plain Python values."""

from collections.abc import Sequence


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
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs))


def _longest_common(first: Sequence[object], second: Sequence[object]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        diagonal = 0
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = diagonal + 1 if item == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
