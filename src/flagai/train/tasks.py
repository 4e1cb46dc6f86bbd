"""The objectives of the tasks: titles and poems, entities, classes, pairs of texts, masked words."""

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from flagai.auto_model.lookup import class_name_for, class_names_by_family
from flagai.data.prepare import bert
from flagai.data.prepare.batch import Batch
from flagai.data.prepare.labels import Span, on_tokens
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import family_named, family_names
from flagai.model.predictor.predictor import Predictor
from flagai.train import labels
from flagai.train.metrics import accuracy, entity_scores, rouge_l
from flagai.train.objective import Objective
from flagai.train.recipe import Recipe
from flagai.train.records import Record


class Classification(Objective):
    """A text, or two, and a label."""

    metric = "accuracy"
    packable = True

    def __init__(self, task: str, family: str, records: Sequence[Record], recipe: Recipe) -> None:
        super().__init__(task, family, records, recipe)
        self.known = labels.classes(records)

    def check_labels(self, record: Record) -> None:
        """See the base class."""
        labels.class_number(record, self.known)

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"class_num": len(self.known), "problem_type": None}  # whatever the model did before

    def names(self) -> list[str]:
        """See the base class."""
        return self.known

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        """See the base class."""
        make = self.training.classification
        assert make is not None  # noqa: S101 - objective_for has seen to it
        numbers = [labels.class_number(record, self.known) for record in records]
        return make(tokenizer, [_one_or_two(self.texts(record)) for record in records], numbers, self.recipe.max_length)

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """The accuracy."""
        texts = [_one_or_two(self.texts(record)) for record in records]
        found = run.class_probabilities(texts, self.recipe.max_length).argmax(-1).tolist()
        return {"accuracy": accuracy(found, [labels.class_number(record, self.known) for record in records])}


def _one_or_two(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


class Matching(Classification):
    """Two texts, and whether they mean the same."""

    columns = ("text1", "text2")


class Entities(Objective):
    """A text and its entities: softmax, CRF, or GlobalPointer."""

    metric = "f1"
    packable = True

    def __init__(self, task: str, family: str, records: Sequence[Record], recipe: Recipe) -> None:
        self.tags = labels.tags_of(records)
        super().__init__(task, family, records, recipe)
        self.types = labels.entity_types(records)

    def check(self, record: Record) -> None:
        """See the base class."""
        labels.tagged(record, self.tags)

    def check_labels(self, record: Record) -> None:
        """See the base class."""
        self._entities(record)

    def _entities(self, record: Record) -> list[Span]:
        return labels.known_entities(record, self.types, self.tags)

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"class_num": len(self.names())}

    def names(self) -> list[str]:
        """See the base class."""
        if self.task == "ner-gp":
            return self.types
        return ["O", *(f"{mark}-{kind}" for kind in self.types for mark in "BI")]

    def texts(self, record: Record) -> tuple[str, ...]:
        """See the base class."""
        return (labels.tagged(record, self.tags)[0],)

    def unlearned(self, tokenizer: Tokenizer, records: Sequence[Record]) -> str:
        """See the base class."""
        spans = [self._entities(record) for record in records]
        rows = bert.rows(tokenizer, [self.texts(record)[0] for record in records])
        placed = [on_tokens(found, row.offsets) for found, row in zip(spans, rows, strict=True)]
        count = sum(map(len, spans))
        inside = count - sum(map(len, placed))
        behind = sum(last >= self.recipe.max_length - 1 for found in placed for _, _, last in found)
        parts = [f"{inside} begin or end inside of a token of the model"] * (inside > 0)
        parts += [f"{behind} end after max_length={self.recipe.max_length} tokens (raise it, or cut texts)"] * (
            behind > 0
        )
        return f"{inside + behind} of {count} entities are not learned: {', '.join(parts)}." if parts else ""

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        """See the base class."""
        make = bert.span_labelling if self.task == "ner-gp" else bert.labelling
        texts = [self.texts(record)[0] for record in records]
        spans = [self._entities(record) for record in records]
        return make(tokenizer, texts, spans, self.names(), self.recipe.max_length)

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """Precision, recall and F1 of entities."""
        texts = [self.texts(record)[0] for record in records]
        found = run.predict_ner(texts, self.names())
        gold = [[(span.start, span.end, span.label) for span in self._entities(record)] for record in records]
        return entity_scores(found, gold)


class Writing(Objective):
    """A text to read and one to write: titles, poems."""

    columns: ClassVar[tuple[str, ...]] = ("text", "title")
    limits = ("max_length", "max_target_length")

    def texts(self, record: Record) -> tuple[str, ...]:
        """What is read and what is written."""
        # As `flagai title` asks: the published GLM was trained on lower-cased text.
        text = record.text("text")
        return (text.lower() if self.training.lower else text), record.text("title")

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        """See the base class."""
        sources, targets = zip(*(self.texts(record) for record in records), strict=True)
        return self.training.pairs(tokenizer, sources, targets, self.recipe.max_length, self.recipe.max_target_length)

    def is_cut(self, tokenizer: Tokenizer, counts: Sequence[int]) -> bool:
        """See the base class."""
        source, target = counts
        limits = self.recipe.max_length, self.recipe.max_target_length
        return self.training.is_cut(tokenizer, source, target, *limits)

    def final_metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """ROUGE-L on characters of the most probable texts."""
        chosen = [self.texts(record) for record in records[: self.recipe.generated]]
        if not chosen:
            return {}
        sources = [source for source, _ in chosen]
        written = run.write(sources, self.recipe.max_length, self.recipe.max_target_length)
        scores = [rouge_l(text, target) for text, (_, target) in zip(written, chosen, strict=True)]
        return {"rouge_l": sum(scores) / len(scores)}


class Poetry(Writing):
    """A title and a form to read, a poem to write."""

    columns = ("title", "form", "text")

    def texts(self, record: Record) -> tuple[str, ...]:
        """What is read, ``title：form``, and what is written."""
        return f"{record.text('title')}：{record.text('form')}", record.text("text")


class Masking(Objective):
    """Plain texts, of which parts are hidden: BERT's masked words, GLM's blanks."""

    packable = True

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        """See the base class."""
        make = self.training.masking
        assert make is not None  # noqa: S101 - objective_for has seen to it
        chance = random.Random(seed)  # noqa: S311 - no secret
        return make(tokenizer, [record.text("text") for record in records], chance, self.recipe.max_length)


OBJECTIVES: dict[str, type[Objective]] = {
    "title-generation": Writing,
    "poetry": Poetry,
    "ner": Entities,
    "ner-crf": Entities,
    "ner-gp": Entities,
    "semantic-matching": Matching,
    "classification": Classification,
    "masklm": Masking,
}


def _trains(task: str, family: str) -> bool:
    """Whether models of a family are trained for a task."""
    training, objective = family_named(family).training, OBJECTIVES[task]
    if training is None or family not in class_names_by_family(task):
        return False
    needed = {Classification: training.classification, Matching: training.classification, Masking: training.masking}
    return objective not in needed or needed[objective] is not None


def objective_for(task: str, family: str, records: Sequence[Record], recipe: Recipe) -> Objective:
    """The objective of a task.

    Args:
        task: from :func:`flagai.catalog.tasks.task_named`.
        family: the model's family.
        records: the training data.
        recipe: how to train.

    Raises:
        InputError: there is no training for this task, not with this family, or a record cannot be used.
    """
    if task not in OBJECTIVES:
        raise InputError(f"There is no fine-tuning for {task!r}. Known: {', '.join(OBJECTIVES)}.")
    if not _trains(task, family):
        class_name_for(task, family)  # says more, where the model cannot do the task at all
        able = " and ".join(sorted(name for name in family_names() if _trains(task, name)))
        raise InputError(f"{task!r} is trained with models of {able}, not of {family}.")
    return OBJECTIVES[task](task, family, records, recipe)
