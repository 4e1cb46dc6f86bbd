"""``flagai ner`` and ``flagai classify``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.cli.common import Json, as_typed, check_place, predictor
from flagai.cli.entries import (
    BatchSize,
    Device,
    Entry,
    Field,
    Home,
    InFile,
    Model,
    OutFile,
    Texts,
    answer,
    read_entries,
)
from flagai.cli.output import check_target
from flagai.cli.screen import show_entities, show_scores
from flagai.errors import InputError

if TYPE_CHECKING:
    from flagai.model.base_model import BaseModel
    from flagai.model.predictor.results import Entity

logger = logging.getLogger(__name__)
Labels = Annotated[
    str | None,
    typer.Option(help="The names of the classes, joined by commas; default those of the model's config.json."),
]
# FlagAI's named-entity model, whose configuration does not name its classes.
_NER_LABELS = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


def ner(
    texts: Texts = None,
    model: Model = "RoBERTa-base-ch",
    head: Annotated[str, typer.Option(help="softmax, crf or gp (GlobalPointer).")] = "softmax",
    labels: Labels = None,
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    batch_size: BatchSize = 64,
    model_dir: Home = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the entities of each text: names of persons, places and organisations, or what the model knows."""
    tasks = {"softmax": "ner", "crf": "ner-crf", "gp": "ner-gp"}
    if head not in tasks:
        raise InputError(f"There is no head {head!r}. Known: {', '.join(tasks)}.")
    check_target(out)
    entries = read_entries(texts, file, field)
    given = _tags(labels, head)
    run = predictor(tasks[head], model, model_dir, device)
    _tell_of_renaming(given, run.model)
    target = given or _default_tags(run.model)

    def as_fields(found: "list[Entity]") -> dict[str, Any]:
        return {"entities": [{"start": start, "end": end, "type": label} for start, end, label in found]}

    answer(
        entries,
        lambda batch: run.predict_ner([entry.text for entry in batch], target),
        as_fields=as_fields,
        show=lambda entry, found: show_entities(entry.text, found, entry.number),
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def classify(
    texts: Texts = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A model's name or folder.")] = ...,  # type: ignore[assignment]
    labels: Labels = None,
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    batch_size: BatchSize = 64,
    model_dir: Home = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Tell the class of each text: by a trained head, or how probable a language model finds each of the --labels."""
    check_target(out)
    entries = read_entries(texts, file, field)
    from flagai.model.predictor.classes import names_one_class

    check_place(device)
    given = _split(labels)
    task = _classifying_task(model, model_dir, given)
    run = predictor(task, model, model_dir, device)
    if task == "classification":
        _tell_of_renaming(given, run.model)
    names = given or _class_names(run.model)

    one_class = names_one_class(run.model)

    def best(scores: dict[str, float]) -> dict[str, str]:
        return {"class": max(scores, key=lambda name: scores[name])} if one_class else {}

    def compute(batch: list[Entry]) -> list[dict[str, float]]:
        probabilities = run.class_probabilities([entry.text for entry in batch], labels=given).tolist()
        return [dict(zip(names, row, strict=True)) for row in probabilities]

    answer(
        entries,
        compute,
        as_fields=lambda scores: {**best(scores), "scores": scores},
        show=lambda entry, scores: show_scores(entry.text, scores, one_class=one_class),
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def _split(labels: str | None) -> list[str]:
    """The names that --labels has, checked."""
    from flagai.model.predictor.arguments import class_names

    return (
        []
        if labels is None
        else list(class_names([name.strip() for name in as_typed(labels, "--labels").split(",")], None))
    )


def _classifying_task(model: str, home: Path | None, labels: list[str]) -> str:
    """The task that loads the head of a model, or the language model that scores labels.

    Raises:
        InputError: a language model was given no labels, or a single one, which is always the best.
    """
    from flagai.auto_model.auto_loader import class_at, family_at

    family = family_at(model, home)
    if family == "bert" or class_at(model, home, "classification") == "GLMForSequenceClassification":
        return "classification"
    if not labels:
        raise InputError(f"{model} is a language model without a trained head: name the classes, --labels good,bad.")
    if len(labels) == 1:
        raise InputError(f"{labels[0]!r} is a single class: name at least two to choose from, --labels good,bad.")
    return "lm"


def _class_names(model: "BaseModel") -> list[str]:
    """The names of the classes that the configuration has, else their numbers."""
    return _own_names(model) or [str(number) for number in range(model.config.class_num)]


def _own_names(model: "BaseModel") -> list[str]:
    """The names of the classes that the configuration has; none if it has none."""
    from flagai.model.predictor.entities import known_labels

    try:
        return list(known_labels(model))
    except InputError:
        return []


def _tell_of_renaming(given: list[str], model: "BaseModel") -> None:
    """Warn if --labels names the classes of a trained head otherwise than its configuration."""
    own = _own_names(model)
    if own and given != own and len(given) == len(own):
        logger.warning(
            "--labels renames the classes of the trained head: %s (config.json) are called %s. Without --labels they "
            "keep their names.",
            ", ".join(own),
            ", ".join(given),
        )


def _tags(labels: str | None, head: str) -> list[str]:
    """The labels of tokens, or types, that --labels has, checked before a model is fetched.

    Raises:
        InputError: a name is empty, or they are not of the form that the head needs.
    """
    if labels is None:
        return []
    given = [label.strip() for label in as_typed(labels, "--labels").split(",")]
    if not all(given):
        raise InputError(f"--labels is {labels!r}, with an empty name. Name every class, as in O,B-LOC,I-LOC.")
    if head == "gp":
        from flagai.model.predictor.entities import check_types

        check_types(given)
    return given


def _default_tags(model: "BaseModel") -> list[str] | None:
    """The labels of FlagAI's own model, whose configuration names none; None for those of the configuration."""
    unnamed = not model.config.get("id2label") and model.config.class_num == len(_NER_LABELS)
    return list(_NER_LABELS) if unnamed else None
