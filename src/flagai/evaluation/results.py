"""What an evaluation finds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from flagai.train.metrics import ClassScores


@dataclass(frozen=True)
class Mistake:
    """A text whose answer is not that of the data.

    Args:
        place: the file and the line.
        text: the text, or two.
        expected: what the data says.
        found: what the model says.
    """

    place: str
    text: str
    expected: str
    found: str


@dataclass(frozen=True)
class Confusion:
    """How often the data says one thing and the model another.

    Args:
        expected: the names of the rows: what the data says.
        found: the names of the columns: what the model says.
        counts: how often, by row and column.
    """

    expected: tuple[str, ...]
    found: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], rows: Sequence[str], columns: Sequence[str]) -> Self:
        """Count pairs.

        Args:
            pairs: what the data says, and what the model says.
            rows: the names that the data has.
            columns: the names that the model has.
        """
        counted = Counter(pairs)
        counts = tuple(tuple(counted[row, column] for column in columns) for row in rows)
        return cls(tuple(rows), tuple(columns), counts)


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model on labelled data.

    Args:
        task: the task's name.
        model: the model's name.
        data: the data file.
        texts: how many rows it has.
        metrics: the measures by their names.
        classes: the scores of each class or type of entity.
        confusion: how often which class was taken for which one; of entities with the same borders.
        mistakes: the texts whose answers differ from the data; of titles and similarities the worst first.
    """

    task: str
    model: str
    data: str
    texts: int
    metrics: Mapping[str, float]
    classes: Mapping[str, ClassScores] = field(default_factory=dict)
    confusion: Confusion | None = None
    mistakes: tuple[Mistake, ...] = ()
