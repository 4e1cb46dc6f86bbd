"""Answers for people: colours and bars on a terminal, plain text in a pipe."""

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
_BAR = 24


@functools.cache
def console() -> "Console":
    """The terminal; it prints without colours and control characters into a pipe."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def show_check(sound: bool, text: str) -> None:
    """Print a line of an examination."""
    typer.secho("   ok " if sound else "  bad ", fg="green" if sound else "red", nl=False)
    typer.echo(text)


def show_entities(text: str, entities: Sequence[tuple[int, int, str]], number: int) -> None:
    """Print a text with its entities in colour; in a pipe, one entity per line.

    Args:
        text: the text.
        entities: its entities.
        number: which text it is. In a pipe, a line is number, start, end, type and words, separated by tabs; a text
            without entities has one line with its number alone.
    """
    if not sys.stdout.isatty():
        for start, end, label in entities:
            words = " ".join(re.split("[\t\r\n]+", text[start : end + 1]))
            typer.echo(f"{number}\t{start}\t{end}\t{label}\t{words}")
        if not entities:
            typer.echo(f"{number}\t\t\t\t")
        return
    from rich.text import Text

    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(sorted({e[2] for e in entities}))}
    line = Text(text)
    for start, end, label in entities:
        line.stylize(f"bold {colours[label]}", start, end + 1)
    line.append("   ")
    for label, colour in colours.items():
        line.append(f" {label} ", f"reverse {colour}")
    console().print(line)


def show_scores(text: str, scores: Mapping[str, float], *, one_class: bool = True) -> None:
    """Print the classes of a text, the most probable first, as bars; in a pipe, the best one, or each."""
    best = sorted(scores.items(), key=lambda item: -item[1])
    if not sys.stdout.isatty():
        for name, score in best[:1] if one_class else best:
            typer.echo(f"{name}\t{score:.4f}\t{text}")
        return
    from rich.text import Text

    console().print(Text(text))
    width = max(len(name) for name in scores)
    for rank, (name, score) in enumerate(best):
        bar = "█" * round(min(max(score, 0), 1) * _BAR)
        console().print(Text(f"  {name:<{width}} {bar:<{_BAR}} {score:.3f}", "green" if rank == 0 else "dim"))


def show_filled(text: str, spans: Sequence[tuple[int, int]], score: float) -> None:
    """Print a text with what was filled in in colour; in a pipe, score and text."""
    if not sys.stdout.isatty():
        typer.echo(f"{score:.3f}\t{text}")
        return
    from rich.text import Text

    line = Text(f"{score:8.3f}  ", "dim") + Text(text)
    for start, end in spans:
        line.stylize("bold green", start + 10, end + 10)
    console().print(line)
