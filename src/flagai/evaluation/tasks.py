"""The evaluation of each task: answers beside what the data says."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flagai.data.prepare.scheme import read_tags
from flagai.errors import InputError
from flagai.evaluation.results import Confusion, Mistake
from flagai.families.family import family_and_row
from flagai.model.predictor.capabilities import require_one_class
from flagai.model.predictor.entities import own_class_names
from flagai.pipelines import TaskPipeline, default_tags
from flagai.train import labels
from flagai.train import metrics as measures
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.run import TrainingRun
from flagai.train.schemes import check_scheme
from flagai.train.tasks import OBJECTIVES, objective_for
from flagai.typed_json import as_float

logger = logging.getLogger(__name__)

# Rows and columns of the confusion matrix for entities without a counterpart.
MISSED, SPURIOUS = "(missed)", "(spurious)"
_EntityKey = tuple[int, int, str]


@dataclass(frozen=True)
class Findings:
    """What an evaluator finds: fields of an :class:`~flagai.evaluation.results.Evaluation`."""

    metrics: Mapping[str, float]
    classes: Mapping[str, measures.ClassScores] = field(default_factory=dict)
    confusion: Confusion | None = None
    mistakes: tuple[Mistake, ...] = ()


# A model for the task, the rows, and how many tokens of a text are read.
Evaluator = Callable[[TaskPipeline, Sequence[Record], int | None], Findings]


def _entities(run: TaskPipeline, records: Sequence[Record], max_length: int | None) -> Findings:
    tags = labels.tags_of(records)
    check_scheme(records, [*tags])
    texts, spans = zip(*(labels.tagged(record, tags) for record in records), strict=True)
    gold = [{(span.start, span.end, span.label) for span in found} for found in spans]
    names = default_tags(run.model) or own_class_names(run.model)
    unknown = {kind for found in gold for *_, kind in found} - {tag.kind for tag in read_tags(tuple(names))}
    if unknown:
        logger.warning("The model does not know these types of the data: %s.", ", ".join(sorted(map(str, unknown))))
    found_in = run.predictor.predict_ner([*texts], names, max_length)
    answers = [{(each.start, each.end, each.type) for each in found} for found in found_in]
    classes = measures.scores_by_class(answers, gold)
    pairs = [pair for one, other in zip(gold, answers, strict=True) for pair in _paired(one, other)]
    mistakes = tuple(
        Mistake(record.place, text, _listed(text, one), _listed(text, other))
        for record, text, one, other in zip(records, texts, gold, answers, strict=True)
        if one != other
    )
    measured = measures.micro_scores(classes) | {"macro_f1": measures.macro_f1(classes)}
    return Findings(measured, classes, Confusion.of(pairs, [*classes, SPURIOUS], [*classes, MISSED]), mistakes)


def _paired(gold: set[_EntityKey], found: set[_EntityKey]) -> Iterator[tuple[str, str]]:
    """The types of entities with the same borders in data and answer, and of those without a counterpart."""
    right = gold & found
    missed, spurious = ({(a, b): kind for a, b, kind in found - right} for found in (gold, found))
    yield from ((kind, kind) for *_, kind in right)
    yield from ((kind, spurious.get(place, MISSED)) for place, kind in missed.items())
    yield from ((SPURIOUS, kind) for place, kind in spurious.items() if place not in missed)


def _listed(text: str, entities: set[_EntityKey]) -> str:
    return ", ".join(f"{text[a : b + 1]} ({kind}, {a}-{b})" for a, b, kind in sorted(entities)) or "none"


def _classes(run: TaskPipeline, records: Sequence[Record], max_length: int | None) -> Findings:
    require_one_class(run.model)
    texts = [_texts(run.task, record) for record in records]
    names = own_class_names(run.model) or [str(number) for number in range(run.model.config.class_num)]
    gold = [names[labels.class_number(record, names)] for record in records]
    entries = [each[0] if len(each) == 1 else list(each) for each in texts]
    numbers = run.predictor.class_probabilities(entries, max_length or 512).argmax(-1).tolist()
    answers = [names[number] for number in numbers]
    classes = measures.scores_by_class(([(name,)] for name in answers), ([(name,)] for name in gold))
    mistakes = tuple(
        Mistake(record.place, " | ".join(each), one, other)
        for record, each, one, other in zip(records, texts, gold, answers, strict=True)
        if one != other
    )
    measured = {"accuracy": measures.accuracy(answers, gold), "macro_f1": measures.macro_f1(classes)}
    return Findings(measured, classes, Confusion.of(zip(gold, answers, strict=True), names, names), mistakes)


def _texts(task: str, record: Record) -> tuple[str, ...]:
    return tuple(record.text(column) for column in OBJECTIVES[task].columns)


def _matching(run: TaskPipeline, records: Sequence[Record], max_length: int | None) -> Findings:
    """By classes if the model tells them; by correlation if it gives numbers."""
    classes = run.model.config.get("class_num") if run.loaded_for == "semantic-matching" else 1
    if classes != 1:
        return _classes(run, records, max_length)
    if max_length is not None:
        raise InputError("max_length has no meaning with a model that compares embeddings. Leave it out.")
    texts = [_texts(run.task, record) for record in records]
    gold = [_number(record) for record in records]
    similarities: list[float] = run(texts)
    measured = {name: measure(similarities, gold) for name, measure in _CORRELATIONS.items()}
    if len(set(gold)) == 2:
        measured["roc_auc"] = measures.roc_auc(similarities, [value == max(gold) for value in gold])
    apart = (measures.ranks(similarities) - measures.ranks(gold)).tolist()
    order = sorted(range(len(gold)), key=lambda index: -abs(apart[index]))
    mistakes = tuple(
        Mistake(records[index].place, " | ".join(texts[index]), f"{gold[index]:g}", f"{similarities[index]:.4f}")
        for index in order
        if apart[index]
    )
    return Findings(measured, mistakes=mistakes)


_CORRELATIONS = {"spearman": measures.spearman, "pearson": measures.pearson}


def _number(record: Record) -> float:
    value = as_float(record.value("label"))
    if value is None:
        raise InputError(
            f"{record.place}: 'label' is {record.value('label')!r:.80}; expected a number, as the model gives numbers."
        )
    return value


def _titles(run: TaskPipeline, records: Sequence[Record], max_length: int | None) -> Findings:
    texts, titles = zip(*(_texts(run.task, record) for record in records), strict=True)
    options = {} if max_length is None else {"input_max_length": max_length}
    written: list[str] = run([*texts], **options)
    scores = [measures.rouge(one, other) for one, other in zip(written, titles, strict=True)]
    measured = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    order = sorted(range(len(scores)), key=lambda index: scores[index]["rouge_l"])
    mistakes = tuple(
        Mistake(records[index].place, texts[index], titles[index], written[index])
        for index in order
        if written[index] != titles[index]
    )
    return Findings(measured, mistakes=mistakes)


def _loss(run: TaskPipeline, records: Sequence[Record], max_length: int | None) -> Findings:
    """The loss a token of the objective with which models are trained for the task."""
    family, _ = family_and_row(run.model)
    if family is None:
        raise InputError(f"A {type(run.model).__name__} is of no known family.")
    longest = run.model.max_positions or 512
    recipe = Recipe(max_length=min(max_length or 512, longest))
    objective: Any = objective_for(run.task, family.name, records, recipe)
    run.model.eval()
    held_out = TrainingRun(run.model, run.tokenizer, objective, (), records, recipe)
    loss = held_out.held_out_loss(run.model, run.model.device, contextlib.nullcontext)
    return Findings({"loss": loss, "perplexity": measures.perplexity(loss)})


EVALUATORS: Mapping[str, Evaluator] = {
    **dict.fromkeys(("ner", "ner-crf", "ner-gp"), _entities),
    "classification": _classes,
    "semantic-matching": _matching,
    "title-generation": _titles,
    **dict.fromkeys(("poetry", "masklm", "lm", "writing"), _loss),
}
