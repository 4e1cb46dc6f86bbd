"""CoNLL files: one token and its tag per line, an empty line after each text.

Columns are separated by tabs or, in lines without any, by blanks (U+0020 only), so tokens may hold other blanks. The
first column is the token (the second, if the first one counts the tokens), the last one its tag.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flagai.errors import InputError

_DOCUMENT = re.compile(r"-DOC(START|END)-")
_COMMENT = re.compile(r"#( |begin |end )")
_TAG = re.compile(r"O|[BIESMLUW][-_].+")
_COUNT = re.compile(r"[0-9]+([-.][0-9]+)?")

ConllRow = tuple[int, list[str]]


def rows_of_conll(lines: Sequence[str], path: Path) -> Iterator[tuple[str, dict[str, list[str]], tuple[int, ...]]]:
    """The place of each text of a file, and its tokens and tags.

    Raises:
        InputError: a line has no tag, or another number of columns than the others.
    """
    blocks = list(_blocks(lines, path))
    counted = all(_COUNT.fullmatch(columns[0]) for rows in blocks for _, columns in rows)
    counted = counted and all(len(rows[0][1]) > 2 and rows[0][1][0].startswith("1") for rows in blocks)
    for rows in blocks:
        # 1-2 and 1.1 are not tokens of their own
        kept = [(line, row[1:]) for line, row in rows if row[0].isdigit()] if counted else rows
        yield (
            f"line {rows[0][0]}",
            {"tokens": [columns[0] for _, columns in kept], "tags": [columns[-1] for _, columns in kept]},
            tuple(line for line, _ in kept),
        )


def _blocks(lines: Sequence[str], path: Path) -> Iterator[list[ConllRow]]:
    """The rows of each text, as columns."""
    rows: list[ConllRow] = []
    first: ConllRow | None = None
    for number, line in enumerate([*(line.removesuffix("\r") for line in lines), ""], 1):
        columns = _columns(line)
        ends = not columns or _DOCUMENT.match(columns[0])
        if ends and rows:
            yield rows
            rows = []
        if ends or (not rows and _COMMENT.match(line) and not _TAG.fullmatch(columns[-1])):
            continue
        if len(columns) < 2 or not columns[0]:
            raise InputError(
                f"{path}, line {number} is {line!r:.80}; expected a token and its tag, such as '京 I-LOC'."
            )
        first = first or (number, columns)
        if len(columns) != len(first[1]):
            raise InputError(
                f"{path}, line {number} has {len(columns)} columns, line {first[0]} has {len(first[1])}. Give each the "
                "same, and separate them by tabs if tokens hold blanks."
            )
        rows.append((number, columns))


def _columns(line: str) -> list[str]:
    """The columns of a line; none of an empty one. A blank may be a token."""
    full = line.rstrip(" \t")
    if not full:
        return []
    if "\t" in full:
        token, *between, tag = full.split("\t")
        return [token.strip(" ") or token, *filter(None, between), tag.strip(" ")]
    columns = re.split(" +", full.lstrip(" "))
    return [" ", *columns] if len(columns) == 1 and full.startswith(" ") else columns
