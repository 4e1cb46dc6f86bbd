"""Evaluations as text, as a page of HTML that needs nothing else, and as JSON."""

import dataclasses
import html
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flagai.checkpoint.atomic import replace_file
from flagai.errors import InputError
from flagai.evaluation.results import Confusion, Evaluation

_LONGEST = 200  # characters of a text in a list of mistakes on a terminal
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
:root { color-scheme: light dark }
table { border-collapse: collapse; margin: 1em 0 } caption { text-align: left; padding: .3em 0 }
th, td { border: 1px solid #8886; padding: .2em .6em; text-align: right; overflow-wrap: anywhere }
th:first-child, .texts td, .texts th { text-align: left; vertical-align: top; white-space: pre-wrap }
"""


def as_text(found: Evaluation, most: int | None = None) -> str:
    """An evaluation for a terminal.

    Args:
        found: the evaluation.
        most: how many mistakes are listed; default all.
    """
    lines = [_title(found), *(f"{name} {value:.4f}" for name, value in found.metrics.items())]
    for head, rows in _tables(found):
        lines += ["", *_aligned([head, *rows])]
    shown = found.mistakes[:most]
    lines += ["", _count(found)] if found.mistakes else []
    for mistake in shown:
        lines += [mistake.place, *(f"  {name}: {_short(text)}" for name, text in _parts(mistake.text, mistake))]
    if len(shown) < len(found.mistakes):
        lines.append(f"... and {len(found.mistakes) - len(shown)} more.")
    return "\n".join(lines) + "\n"


def as_html(found: Evaluation) -> str:
    """An evaluation as a page."""
    title = html.escape(_title(found))
    metrics = [[name, f"{value:.4f}"] for name, value in found.metrics.items()]
    parts = [f"<h1>{title}</h1>", _table(["metric", "value"], metrics)]
    for names, rows in _tables(found):
        parts.append(_table(names, rows, found.confusion if names[0] == _CORNER else None))
    if found.mistakes:
        rows = [[each.place, each.text, each.expected, each.found] for each in found.mistakes]
        parts += [f"<h2>{_count(found)}</h2>", _table(["place", "text", "expected", "found"], rows, kind="texts")]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def as_json(found: Evaluation) -> str:
    """An evaluation as a JSON object in one line."""
    return json.dumps(dataclasses.asdict(found), ensure_ascii=False) + "\n"


REPORTS: Mapping[str, Callable[[Evaluation], str]] = {".txt": as_text, ".html": as_html, ".json": as_json}


def check_report(path: Path, *, overwrite: bool) -> None:
    """Refuse a file of another form, and one that is there.

    Raises:
        InputError: it is one.
    """
    if path.suffix not in REPORTS:
        raise InputError(f"out is {path}, of no known form. Known endings: {', '.join(REPORTS)}.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already. Choose another --out, or replace it with --overwrite.")


def write_report(found: Evaluation, path: Path) -> None:
    """Write an evaluation in the form that the file's ending names."""
    with replace_file(path) as temporary:
        temporary.write_text(REPORTS[path.suffix](found), encoding="utf-8", errors="backslashreplace")


_CORNER = "data \\ model"


def _tables(found: Evaluation) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The scores of the classes, and the confusion matrix: heads and rows."""
    if found.classes:
        rows = [
            [name, *(f"{value:.4f}" for value in (each.precision, each.recall, each.f1)), str(each.support)]
            for name, each in found.classes.items()
        ]
        yield ["class", "precision", "recall", "f1", "support"], rows
    matrix = found.confusion
    if matrix is not None:
        counts = zip(matrix.expected, matrix.counts, strict=True)
        yield [_CORNER, *matrix.found], [[name, *map(str, row)] for name, row in counts]


def _title(found: Evaluation) -> str:
    return f"{found.task}: {found.model} on {found.data}, {found.texts} texts"


def _count(found: Evaluation) -> str:
    return f"{len(found.mistakes)} of {found.texts} answers differ from the data"


def _parts(text: str, mistake: object) -> Iterator[tuple[str, str]]:
    yield "text", text
    yield from ((name, getattr(mistake, name)) for name in ("expected", "found"))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table with columns of one width, the first one to the left."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            (cell + " " * (width - _width(cell))) if number == 0 else (" " * (width - _width(cell)) + cell)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], heat: Confusion | None = None, kind: str = "numbers"
) -> str:
    shares = [[count / max(1, sum(row)) for count in row] for row in heat.counts] if heat else []
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    for number, row in enumerate(rows):
        colours = (
            ["", *(f' style="background: rgb(60 120 220 / {share:.2f})"' for share in shares[number])] if heat else []
        )
        cells = [f"<td{colours[i] if heat else ''}>{html.escape(cell)}</td>" for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="{kind}">\n' + "\n".join(lines) + "\n</table>"
