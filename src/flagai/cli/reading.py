"""``flagai ner`` and ``flagai classify``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.cli.common import Json, predictor
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
    run = predictor(tasks[head], model, model_dir, device)
    target = _labels(labels, run.model)

    def as_fields(found: list[tuple[int, int, str]]) -> dict[str, Any]:
        return {"entities": [{"start": start, "end": end, "type": label} for start, end, label in found]}

    answer(
        entries,
        lambda batch: run.predict_ner([entry.text for entry in batch], target),
        as_fields=as_fields,
        show=lambda entry, found: show_entities(entry.text, found),
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
    """Tell the class of each text. A language model is asked for the --labels, in its own words."""
    check_target(out)
    entries = read_entries(texts, file, field)
    run = predictor("classification", model, model_dir, device)
    names = [] if labels is None else labels.split(",")

    def compute(batch: list[Entry]) -> list[dict[str, float]]:
        probabilities = run.class_probabilities([entry.text for entry in batch], labels=names).tolist()
        return [dict(zip(names or map(str, range(len(row))), row, strict=True)) for row in probabilities]

    answer(
        entries,
        compute,
        as_fields=lambda scores: {"class": max(scores, key=lambda name: scores[name]), "scores": scores},
        show=lambda entry, scores: show_scores(entry.text, scores),
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def _labels(given: str | None, model: "BaseModel") -> list[str] | None:
    """The labels that were given, or FlagAI's for its own model; None for those of the configuration."""
    if given is not None:
        return given.split(",")
    unnamed = not model.config.get("id2label") and model.config.class_num == len(_NER_LABELS)
    return list(_NER_LABELS) if unnamed else None
