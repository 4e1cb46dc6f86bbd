"""``flagai list`` and ``flagai show``: the catalog on the screen."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flagai.catalog.card import FAMILIES, Card, ModelFile
from flagai.catalog.catalog import find, list_models
from flagai.cli.command import command
from flagai.cli.options import Cards, Json
from flagai.cli.output import print_json
from flagai.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_OF_FILES = 140
_LANGUAGES = {"zh": "Chinese", "en": "English"}


@command()
def list_command(
    task: Annotated[
        str | None, typer.Option(help="Show only models for this task, such as lm, ner or title-generation.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Show only models of this language: zh or en.")] = None,
    family: Annotated[
        str | None, typer.Option(help=f"Show only this family: {', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}.")
    ] = None,
    cards: Cards = None,
    as_json: Json = False,
) -> None:
    """List the models of the catalog."""
    found = list_models(task=task, language=language, family=family, cards=cards)
    if as_json:
        for card in found:
            print_json(_as_json(card))
        return
    told = any(card.generation for card in found)
    table = _grid("name", *(["generation"] if told else []), "task", "language", "parameters", "available from")
    for card in found:
        generation = [printable(card.generation or "")] if told else []
        size = _rounded(card.parameters)
        table.add_row(printable(card.name), *generation, card.task, card.language, size, card.available_from)
    _console().print(table)


@command()
def show(
    name: Annotated[str, typer.Argument(help="Model name in any case, or repository (owner/name).")],
    cards: Cards = None,
    as_json: Json = False,
) -> None:
    """Show the model card: sources, licence, size, tokenizer."""
    card = find(name, cards=cards)
    if as_json:
        print_json(_as_json(card))
        return
    from rich.text import Text

    console = _console()
    table = _grid("", "")
    table.show_header = False
    for label, value in _rows(card):
        table.add_row(Text(label, style="bold"), Text(printable(value)))
    console.print(table)
    for line in ("", *loading_lines(card)):
        console.print(Text(printable(line), style="green"), soft_wrap=True)


def loading_lines(card: Card) -> tuple[str, str]:
    """The two lines of Python that load a model."""
    return (
        f"from {card.module} import {card.model_class}",
        f'model = {card.model_class}.from_pretrain(model_name="{card.name}")',
    )


def _rows(card: Card) -> list[tuple[str, str]]:
    """The facts of a card, in the order in which one asks for them."""
    half, single = (card.parameters * size / 1e9 for size in (2, 4))
    rows = [
        ("name", "\n".join((card.name, *(f"also {alias}" for alias in card.aliases)))),
        ("task", card.task + (f", fine-tuned from {card.base}" if card.base else "")),
        ("generation", card.generation or ""),
        ("language", _LANGUAGES[card.language]),
        ("class", f"{card.module}.{card.model_class}"),
        ("parameters", f"{card.parameters:,}: {half:.2f} GB in float16, {single:.2f} GB in float32"),
        ("available", card.available_from),
        ("sources", "\n".join(card.sources) or "none"),
        ("by hand", card.by_hand or ""),
        ("install", card.install or ""),
        ("files", "\n".join(_file(file) for file in card.files)),
        ("tokenizer", _tokenizer(card)),
        ("licence", card.licence),
        ("paper", card.paper or ""),
        ("notes", card.notes or ""),
        ("inferred", "\n".join(f"{field}: {note}" for field, note in card.inferred.items())),
        ("card", card.origin),
    ]
    return [(label, value) for label, value in rows if value]


def _file(file: ModelFile) -> str:
    facts = [f"{file.size:,} bytes" if file.size else "", f"sha256 {file.sha256[:12]}..." if file.sha256 else ""]
    known = ", ".join(fact for fact in facts if fact)
    return file.name + (f" ({known}{f', from {file.source}' if file.source else ''})" if known else "")


def _tokenizer(card: Card) -> str:
    tokenizer = card.tokenizer
    also = [f"{own} may be called {' or '.join(others)}" for own, others in tokenizer.aliases.items()]
    lines = [f"{tokenizer.kind}: {', '.join(tokenizer.files)}", *also]
    if tokenizer.segmenter:
        lines.append(f"words are cut by {tokenizer.segmenter}")
    if tokenizer.command_table:
        lines.append(f"command tokens: the {tokenizer.command_table} table")
    return "\n".join([*lines, ", ".join(f"{name} {number}" for name, number in tokenizer.tokens.items())])


def _as_json(card: Card) -> dict[str, object]:
    return dataclasses.asdict(card) | {"available_from": card.available_from, "load": loading_lines(card)}


def _rounded(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _grid(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column == "name", justify="right" if column == "parameters" else "left")
    return table


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
