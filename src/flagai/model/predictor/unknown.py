"""Texts that a model cannot read: those whose words its vocabulary does not have, as of another language."""

import logging
from collections.abc import Sequence

import numpy as np

from flagai.data.ragged import Ragged
from flagai.errors import InputError

logger = logging.getLogger(__name__)

# 95 % of STS-B's Chinese sentences have at least 40 % unknown tokens with an English vocabulary; sentences in the
# language of a vocabulary have next to none.
_SHARE = 0.25
_FEWEST = 3  # a text of one or two tokens may be an emoji, unless it has letters


class UnknownTokens:
    """Looks for texts with many unknown tokens while they are read.

    Args:
        unknown: the id of the unknown token; None for a vocabulary that writes everything.
        specials: how many command tokens every row has.
        strict: whether such texts are an error, or a warning.
    """

    def __init__(self, unknown: int | None, specials: int, *, strict: bool) -> None:
        self._unknown = unknown
        self._specials = specials
        self._strict = strict
        self._count = 0
        self._first: str | None = None

    def look(self, texts: Sequence[str], rows: Ragged) -> Ragged:
        """Look at the rows of some texts.

        Raises:
            InputError: a text has too many unknown tokens, and that is an error.
        """
        hits = rows.values == self._unknown
        if self._unknown is None or not hits.any():
            return rows
        sums = np.concatenate([[0], hits.cumsum()])
        counts = sums[rows.starts + rows.lengths] - sums[rows.starts]
        own = rows.lengths - self._specials
        many = np.flatnonzero(counts > _SHARE * own)
        found = [row for row in many.tolist() if own[row] >= _FEWEST or any(map(str.isalpha, texts[row]))]
        if found and self._first is None:
            self._first = texts[found[0]]
        self._count += len(found)
        if found and self._strict:
            raise InputError(self._message(len(texts)))
        return rows

    def report(self, total: int) -> None:
        """Warn of what was found."""
        if self._count:
            logger.warning("%s", self._message(total))

    def _message(self, total: int) -> str:
        return (
            f"{self._count} of {total} texts have more than {_SHARE:.0%} tokens that the model's vocabulary does not "
            f"know, such as {self._first!r:.60}: their vectors mean little. Take a model of their language."
        )
