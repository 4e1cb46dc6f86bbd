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
from flagai.train.contrastive import Embedding
from flagai.train.metrics import accuracy, entity_scores, rouge
from flagai.train.objective import Objective
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.schemes import check_scheme


class Classification(Objective):
    """A text, or two, and a label."""

    metric = "accuracy"
    packable = True

    def __init__(self, task: str, family: str, records: Sequence[Record], recipe: Recipe) -> None:
        super().__init__(task, family, records, recipe)
        self.known = labels.classes(records)

    def check_labels(self, record: Record) -> None:
        labels.class_number(record, self.known)

    def settings(self) -> dict[str, Any]:
        return {"class_num": len(self.known), "problem_type": None}  # whatever the model did before

    def names(self) -> list[str]:
        return self.known

    def _read(self, records: Sequence[Record]) -> tuple[list[str | list[str]], list[int]]:
        """Texts, or lists of two, and the numbers of their classes."""
        texts = [list(self.texts(record)) for record in records]
        numbers = [labels.class_number(record, self.known) for record in records]
        return [each[0] if len(each) == 1 else each for each in texts], numbers

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        make = self.training.classification
        assert make is not None  # noqa: S101 - objective_for has seen to it
        return make(tokenizer, *self._read(records), self.recipe.max_length)

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        texts, numbers = self._read(records)
        found = run.class_probabilities(texts, self.recipe.max_length).argmax(-1).tolist()
        return {"accuracy": accuracy(found, numbers)}


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
        self.types = labels.entity_types(records, self.tags)
        check_scheme(records, [*self.tags], recipe.scheme)

    def check(self, record: Record) -> None:
        labels.tagged(record, self.tags)
        if self.recipe.scheme is not None:
            check_scheme([record], [*dict.fromkeys([*self.tags, *record.strings("tags")])], self.recipe.scheme)

    def check_labels(self, record: Record) -> None:
        self._read([record])

    def settings(self) -> dict[str, Any]:
        return {"class_num": len(self.names())}

    def names(self) -> list[str]:
        if self.task == "ner-gp":
            return self.types
        return ["O", *(f"{mark}-{kind}" for kind in self.types for mark in "BI")]

    def texts(self, record: Record) -> tuple[str, ...]:
        return (labels.tagged(record, self.tags)[0],)

    def _read(self, records: Sequence[Record]) -> tuple[list[str], list[list[Span]]]:
        """Texts and their entities, all of known types."""
        texts, spans = zip(*(labels.tagged(record, self.tags) for record in records), strict=True)
        for record, found in zip(records, spans, strict=True):
            labels.check_types(record, found, self.types)
        return list(texts), list(spans)

    def unlearned(self, tokenizer: Tokenizer, records: Sequence[Record]) -> str:
        texts, spans = self._read(records)
        rows = bert.rows(tokenizer, texts)
        placed = [on_tokens(found, row.offsets) for found, row in zip(spans, rows, strict=True)]
        count, most = sum(map(len, spans)), self.recipe.max_length
        inside = count - sum(map(len, placed))
        behind = sum(last >= most - 1 for found in placed for _, _, last in found)
        parts = {
            f"{inside} begin or end inside of a token of the model": inside,
            f"{behind} end after max_length={most} tokens (raise it, or cut texts)": behind,
        }
        said = ", ".join(part for part, number in parts.items() if number)
        return f"{inside + behind} of {count} entities are not learned: {said}." if said else ""

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        make = bert.span_labelling if self.task == "ner-gp" else bert.labelling
        return make(tokenizer, *self._read(records), self.names(), self.recipe.max_length)

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        texts, spans = self._read(records)
        gold = [[(span.start, span.end, span.label) for span in found] for found in spans]
        return entity_scores(run.predict_ner(texts, self.names()), gold)


class Writing(Objective):
    """A text to read and one to write: titles, poems."""

    columns: ClassVar[tuple[str, ...]] = ("text", "title")
    limits = ("max_length", "max_target_length")

    def texts(self, record: Record) -> tuple[str, ...]:
        # As `flagai title` asks: the published GLM was trained on lower-cased text.
        text = record.text("text")
        return (text.lower() if self.training.lower else text), record.text("title")

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        sources, targets = zip(*(self.texts(record) for record in records), strict=True)
        return self.training.pairs(tokenizer, sources, targets, self.recipe.max_length, self.recipe.max_target_length)

    def is_cut(self, tokenizer: Tokenizer, counts: Sequence[int]) -> bool:
        source, target = counts
        return self.training.is_cut(tokenizer, source, target, self.recipe.max_length, self.recipe.max_target_length)

    def final_metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """ROUGE of the most probable texts."""
        chosen = [self.texts(record) for record in records[: self.recipe.generated]]
        if not chosen:
            return {}
        sources, targets = zip(*chosen, strict=True)
        written = run.write(list(sources), self.recipe.max_length, self.recipe.max_target_length)
        scores = [rouge(one, other) for one, other in zip(written, targets, strict=True)]
        return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}


class Poetry(Writing):
    """A title and a form to read, a poem to write."""

    columns = ("title", "form", "text")

    def texts(self, record: Record) -> tuple[str, ...]:
        return f"{record.text('title')}：{record.text('form')}", record.text("text")


class Masking(Objective):
    """Plain texts, of which parts are hidden: BERT's masked words, GLM's blanks."""

    packable = True

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        make = self.training.masking
        assert make is not None  # noqa: S101 - objective_for has seen to it
        chance = random.Random(seed)  # noqa: S311 - no secret
        return make(tokenizer, [record.text("text") for record in records], chance, self.recipe.max_length)


class Continuation(Objective):
    """Plain texts, each token of which is predicted from those before it; long ones are cut into windows."""

    def is_cut(self, tokenizer: Tokenizer, counts: Sequence[int]) -> bool:
        return False

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        make = self.training.continuation
        assert make is not None  # noqa: S101 - objective_for has seen to it
        return make(tokenizer, [record.text("text") for record in records], self.recipe.max_length)


OBJECTIVES: dict[str, type[Objective]] = {
    "title-generation": Writing,
    "poetry": Poetry,
    "ner": Entities,
    "ner-crf": Entities,
    "ner-gp": Entities,
    "semantic-matching": Matching,
    "classification": Classification,
    "masklm": Masking,
    "writing": Continuation,
    "lm": Continuation,
    "embedding": Embedding,
}


def _trains(task: str, family: str) -> bool:
    """Whether models of a family are trained for a task."""
    training, objective = family_named(family).training, OBJECTIVES[task]
    if training is None or family not in class_names_by_family(task):
        return False
    needed = {
        Classification: training.classification,
        Matching: training.classification,
        Masking: training.masking,
        Continuation: training.continuation,
        Embedding: training.embedding,
    }
    return objective not in needed or needed[objective] is not None


def objective_for(task: str, family: str, records: Sequence[Record], recipe: Recipe) -> Objective:
    """The objective of a task.

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
