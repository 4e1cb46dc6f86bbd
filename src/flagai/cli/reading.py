"""``flagai ner`` and ``flagai classify``."""

import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.catalog.tasks import DEFAULT_MODELS
from flagai.cli.command import command
from flagai.cli.entity_pages import PAGES, write_page
from flagai.cli.input import as_typed, read_entries
from flagai.cli.loading import check_place, load_pipeline
from flagai.cli.options import TaskOptions
from flagai.cli.output import answer, check_target
from flagai.cli.terminal import show_entities, show_scores
from flagai.errors import InputError
from flagai.jobs.answering import InputText

if TYPE_CHECKING:
    from flagai.model.base_model import BaseModel
    from flagai.model.predictor.results import Classified, Entity
    from flagai.pipelines import TaskPipeline

logger = logging.getLogger(__name__)
Labels = Annotated[
    str | None,
    typer.Option(help="Class names, separated by commas. Default: those of config.json."),
]
ReadTokens = Annotated[
    int | None, typer.Option("--max-length", min=3, help="Maximum number of input tokens. Default: all.")
]
_HEADS = {"softmax": "ner", "crf": "ner-crf", "gp": "ner-gp"}


@dataclass(frozen=True, kw_only=True)
class _EntityOptions(TaskOptions):
    """What ``ner`` takes."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Output file: JSON Lines, .csv, .tsv (also as .gz), .conll or .html. Use - for stdout.",
        ),
    ] = None


@command(model=DEFAULT_MODELS["ner"][0], batch_size=64)
def ner(
    options: _EntityOptions,
    head: Annotated[str, typer.Option(help="softmax, crf or gp (GlobalPointer).")] = "softmax",
    labels: Labels = None,
    max_length: ReadTokens = None,
) -> None:
    """Extract named entities from each text: by default persons, locations and organizations."""
    if head not in _HEADS:
        raise InputError(f"There is no head {head!r}. Known: {', '.join(_HEADS)}.")
    check_target(options.out, *PAGES, overwrite=options.overwrite)
    entries = read_entries(options)
    given = _tags(labels, head)
    entities_of = load_pipeline(_HEADS[head], options)
    _tell_of_renaming(given, entities_of.model)

    def compute(batch: list[InputText]) -> "list[list[Entity]]":
        return entities_of([entry.text for entry in batch], given or None, max_length)

    out = options.out
    answer(
        entries,
        compute,
        options,
        as_fields=lambda found: {"entities": [asdict(entity) for entity in found]},
        show=lambda entry, found: show_entities(entry.text, found, entry.number),
        runs=entities_of,
        save=partial(write_page, out, options.field) if out is not None and out.suffix in PAGES else None,
    )


@command(batch_size=64)
def classify(
    options: TaskOptions,
    labels: Labels = None,
    max_length: Annotated[int, typer.Option(min=3, help="Maximum number of input tokens.")] = 512,
) -> None:
    """Classify each text: with a fine-tuned classifier, or a language model that scores the --labels (zero-shot)."""
    check_target(options.out, overwrite=options.overwrite)
    entries = read_entries(options)
    from flagai.model.predictor.capabilities import names_one_class

    given = _split(labels)
    class_of = _load_classifier(options, given)
    if class_of.loaded_for == "classification":
        _tell_of_renaming(given, class_of.model)
    one_class = names_one_class(class_of.model)

    def as_fields(found: "Classified") -> dict[str, Any]:
        return {**({"class": found.label} if one_class else {}), "scores": found.scores}

    answer(
        entries,
        lambda batch: class_of([entry.text for entry in batch], given, max_length),
        options,
        as_fields=as_fields,
        show=lambda entry, found: show_scores(entry.text, found.scores, one_class=one_class),
        runs=class_of,
    )


def _split(labels: str | None) -> list[str]:
    """The names that --labels has, checked."""
    from flagai.model.predictor.arguments import label_names

    if labels is None:
        return []
    return list(label_names([name.strip() for name in as_typed(labels, "--labels").split(",")], None))


def _load_classifier(options: TaskOptions, labels: list[str]) -> "TaskPipeline":
    """The model with its trained head, or the language model that scores labels.

    Raises:
        InputError: a language model was given no labels, or a single one, which is always the best.
    """
    from flagai.auto_model.lookup import scores_labels

    def language_model() -> str:
        if not labels:
            raise InputError(
                f"{options.model} is a language model without a trained head: name the classes, --labels good,bad."
            )
        if len(labels) == 1:
            raise InputError(f"{labels[0]!r} is a single class: name at least two to choose from, --labels good,bad.")
        return "lm"

    check_place(options.device)
    otherwise = language_model if scores_labels(options.model, options.model_dir) else None
    return load_pipeline("classification", options, otherwise=otherwise)


def _tell_of_renaming(given: list[str], model: "BaseModel") -> None:
    """Warn if --labels names the classes of a trained head otherwise than its configuration."""
    from flagai.model.predictor.entities import own_class_names

    own = own_class_names(model)
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
