"""The model card that is written beside a trained model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagai.checkpoint.atomic import replace_file

_COMMANDS = {
    "title-generation": "title",
    "poetry": "poem",
    "ner": "ner",
    "ner-crf": "ner",
    "ner-gp": "ner",
    "semantic-matching": "match",
    "classification": "classify",
}
_CARD = """# {name}

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

To be filled in: the licences of the base model and of the data say what may be done with this model.
"""


def write_card(
    folder: Path,
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    place: Path | None = None,
) -> None:
    """Write README.md into the folder of a model that will be at ``place`` (default: there).

    The facts are ``task``, ``base``, ``data`` and the numbers of texts; the metrics are of held-out data.
    """
    place = place or folder
    # As it was given, but for a place that only its owner has.
    home = place.parent.name or "." if place.is_absolute() else place.parent.as_posix()
    text = _CARD.format(
        name=place.name,
        base=facts["base"],
        task=facts["task"],
        command=f"flagai {_COMMANDS.get(facts['task'], 'fill')} --model {place.name} --model-dir {home}",
        home=home,
        facts=_table(facts),
        metrics=_table(metrics),
        recipe=_table(recipe),
    )
    with replace_file(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _table(values: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {f'{value:.4f}' if isinstance(value, float) and abs(value) >= 0.001 else value} |"
        for name, value in values.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])
