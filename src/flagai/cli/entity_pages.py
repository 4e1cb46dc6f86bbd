"""Entities as files for people and other programs: CoNLL, one token and its tag per line, and HTML."""

import html
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagai.cli.output import open_bytes
from flagai.data.tokenizer.text import clean
from flagai.jobs.parts import cell

if TYPE_CHECKING:
    from flagai.model.predictor.results import Entity

logger = logging.getLogger(__name__)

_HEAD = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<title>Entities</title>
<style>
body { font: 18px/2.2 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em }
:root { color-scheme: light dark }
p { white-space: pre-wrap; overflow-wrap: anywhere }
mark { color: black; padding: .2em .3em; border-radius: .3em }
mark small { font-size: .6em; font-weight: bold; margin-left: .4em }
</style>
</head>
<body>
"""
_TAIL = "</body>\n</html>\n"
# A Chinese, Japanese or Korean character, another word, or a sign.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]|[^\W\u3040-\U0003ffff]+|\S"
)


def write_page(path: Path, field: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write texts with their entities to a file; it appears whole or not at all.

    Args:
        path: the file; its ending is one of :data:`PAGES`.
        field: the name of the rows' texts.
        rows: texts with their ``entities``, each the fields of an Entity.

    Raises:
        InputError: it cannot be written.
    """
    from flagai.model.predictor.results import Entity

    head, body, tail = PAGES[path.suffix]
    left_out = 0
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        text.write(head)
        for row in rows:
            apart = _apart([Entity(**entity) for entity in row["entities"]])
            left_out += len(row["entities"]) - len(apart)
            text.write(cell(body(clean([row[field]])[0], apart)))
        text.write(tail)
        text.flush()
        text.detach()
    if left_out:
        logger.warning(
            "%d entities overlap others with a better score, and are not in %s. A .jsonl file has all.", left_out, path
        )


def _apart(entities: "Sequence[Entity]") -> "list[Entity]":
    """Entities in order without those that overlap one with a better score, as a GlobalPointer finds them."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda each: -each.score):
        if all(entity.end < other.start or other.end < entity.start for other in kept):
            kept.append(entity)
    return sorted(kept, key=lambda each: each.start)


def _conll(text: str, entities: "Sequence[Entity]") -> str:
    """The tokens of a text and their tags (IOB2), and an empty line."""
    lines = [f"{token} {tag}\n" for token, tag in _tagged(text, entities)]
    return "".join(lines) + "\n" if lines else ""


def _tagged(text: str, entities: "Sequence[Entity]") -> Iterator[tuple[str, str]]:
    begin = 0
    for entity in entities:
        yield from ((token, "O") for token in _TOKEN.findall(text[begin : entity.start]))
        for number, token in enumerate(_TOKEN.findall(text[entity.start : entity.end + 1])):
            yield token, f"{'I' if number else 'B'}-{entity.type}"
        begin = entity.end + 1
    yield from ((token, "O") for token in _TOKEN.findall(text[begin:]))


def _html(text: str, entities: "Sequence[Entity]") -> str:
    """A paragraph with the entities marked, their scores as hints."""
    parts, begin = [], 0
    for entity in entities:
        shown = html.escape(text[entity.start : entity.end + 1])
        kind = html.escape(entity.type)
        hue = sum(map(ord, entity.type)) * 47 % 360  # a type has one colour in all files
        parts += [
            html.escape(text[begin : entity.start]),
            f'<mark style="background: hsl({hue} 80% 80%)" title="{entity.score:.4f}">',
            f"{shown}<small>{kind}</small></mark>",
        ]
        begin = entity.end + 1
    return f"<p>{''.join(parts)}{html.escape(text[begin:])}</p>\n"


# By the ending of a file: its beginning, a text and its entities, and its end.
PAGES: "Mapping[str, tuple[str, Callable[[str, Sequence[Entity]], str], str]]" = {
    ".conll": ("", _conll, ""),
    ".html": (_HEAD, _html, _TAIL),
}
