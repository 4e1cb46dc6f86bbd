"""The model card that is written beside a trained model."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagai.catalog.catalog import find
from flagai.checkpoint.atomic import replace_file
from flagai.errors import FlagAIError

_COMMANDS = {
    "title-generation": "title",
    "poetry": "poem",
    "ner": "ner",
    "ner-crf": "ner",
    "ner-gp": "ner",
    "semantic-matching": "match",
    "classification": "classify",
}
# The Hugging Face hub's names of tasks.
_PIPELINES = {
    **dict.fromkeys(("ner", "ner-crf", "ner-gp"), "token-classification"),
    **dict.fromkeys(("classification", "semantic-matching"), "text-classification"),
    **dict.fromkeys(("poetry", "writing", "lm"), "text-generation"),
    "title-generation": "summarization",
    "masklm": "fill-mask",
    "embedding": "sentence-similarity",
}
UNKNOWN_LICENCE = "unknown"
_LICENCE = {
    True: "Unknown. Before you publish this model: the licences of the base model and of the data say what may be done "
    "with it. State yours by `flagai push --licence`, or in the head of this page.",
    False: "{}, as stated by the one who trained this model.",
}
_CARD = """{head}

# {name}

{base}, fine-tuned for {task} with flagai.

## Use

    {command}

    AutoLoader("{task}", model_name="{name}", model_dir="{home}")

## Data and base model

{facts}

## Measured on held-out data

{metrics}

![training curve](curve.svg)

## Recipe

{recipe}

## Licence

{licence}
"""


def write_card(
    folder: Path,
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    place: Path | None = None,
) -> None:
    """Write README.md into the folder of a model that will be at ``place`` (default: there).

    Its head in YAML has what the Hugging Face hub reads: licence, base model, task, data and metrics.

    Args:
        folder: where the model is.
        facts: ``task``, ``base``, ``data``, ``licence`` and the numbers of texts.
        recipe: how it was trained.
        metrics: what was measured on held-out data.
        place: where the model will be.
    """
    licence = facts.get("licence") or UNKNOWN_LICENCE
    place = place or folder
    # As it was given, but for a place that only its owner has.
    home = place.parent.name or "." if place.is_absolute() else place.parent.as_posix()
    text = _CARD.format(
        head=_head(place.name, facts, licence, metrics),
        licence=_LICENCE[licence == UNKNOWN_LICENCE].format(licence),
        name=place.name,
        base=facts["base"],
        task=facts["task"],
        command=f"flagai {_COMMANDS.get(facts['task'], 'fill')} --model {place.name} --model-dir {home}",
        home=home,
        facts=_table({name: value for name, value in facts.items() if name != "licence"}),
        metrics=_table(metrics),
        recipe=_table(recipe),
    )
    with replace_file(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _head(name: str, facts: Mapping[str, Any], licence: str, metrics: Mapping[str, Any]) -> str:
    """The head in YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    task = _PIPELINES.get(facts["task"])
    results = [
        EvalResult(
            task_type=task or facts["task"],
            dataset_type="held-out",
            dataset_name=str(facts["data"]),
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    data = ModelCardData(
        base_model=repository_of(str(facts["base"])),
        license=licence,
        library_name="flagai",
        pipeline_tag=task,
        tags=["flagai", facts["task"]],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def repository_of(model: str) -> str | None:
    """The repository on the Hugging Face hub that a model's name means; None for a folder."""
    if not os.path.isdir(model):
        with contextlib.suppress(FlagAIError):
            model = next((source for source in find(model).sources if source.startswith("hf:")), model)
    scheme, _, place = model.rpartition(":")
    place = place.partition("@")[0]
    return place if place.count("/") == 1 and scheme in ("", "hf") and not os.path.isdir(model) else None


def _table(values: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {f'{value:.4f}' if isinstance(value, float) and abs(value) >= 0.001 else value} |"
        for name, value in values.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])
