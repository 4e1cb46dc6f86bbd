"""The table as an SVG picture that reads on light and dark backgrounds, and as Markdown."""

import math
from collections.abc import Sequence

from _targets import Line, Row

from flagai.train.curve import text

_LEFT, _RIGHT, _LINE, _TOP, _WIDTH = 270, 300, 26, 64, 1040
_INK, _FAINT, _MET, _MISSED, _LIMIT = "#7d8590", "#7d859055", "#2da44e", "#d4772c", "#4c8eda"
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
CheckedEmbedding = Sequence[tuple[Row, Line | None]]


def picture(table: CheckedEmbedding, title: str) -> str:
    """A bar for each row: how many times better than the tuned peer, and, faint, than the peer as it runs by default.

    A stroke shows the target, a dotted one the hardware's limit, both relative to the peer as it runs by default.

    Args:
        table: from :func:`_targets.lines`.
        title: what stands above.
    """
    height = _TOP + _LINE * len(table) + 34
    parts = [text(12, 22, title, "start", _INK), text(12, 42, _legend(), "start", _INK)]
    for tick in _TICKS:
        parts.append(_stroke(tick, _TOP - 6, height - 30, _FAINT))
        parts.append(text(_place(tick), height - 12, f"{tick:g} ×", "middle", _INK))
    for number, (row, line) in enumerate(table):
        parts += _bar(row, line, _TOP + _LINE * number)
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([frame, *parts, "</svg>"]) + "\n"


def _legend() -> str:
    return (
        "times faster than the peer: solid tuned (sorted by length, static cache, compiled), faint by default; "
        "| target, ¦ hardware limit; green: met, orange: missed"
    )


def _bar(row: Row, line: Line | None, top: float) -> list[str]:
    parts = [text(_LEFT - 8, top + 16, f"{row.where}: {row.work}", "end", _INK)]
    if line is None:
        return [*parts, text(_LEFT + 8, top + 16, "not measured", "start", _INK)]
    colour = _MET if line.reached else _MISSED
    for times, opacity in ((line.times, 1.0 if line.over_tuned is None else 0.35), (line.over_tuned, 1.0)):
        if times is not None:
            begin, end = sorted((_place(1), _place(times)))
            parts.append(f'<rect x="{begin:.1f}" y="{top + 3:.1f}" width="{end - begin:.1f}" height="17" '
                         f'fill="{colour}" fill-opacity="{opacity}"/>')  # fmt: skip
    if line.limit is not None:
        parts.append(_stroke(line.limit, top, top + 23, _LIMIT, 'stroke-width="2.5" stroke-dasharray="3 2"'))
    parts.append(_stroke(line.target, top, top + 23, _INK, 'stroke-width="2.5"'))
    tuned = "" if line.over_tuned is None else f"{line.over_tuned:.3g} × tuned, "
    found = f"{tuned}{line.times:.3g} ×: {_number(line.ours)} {row.unit}, {_number(line.peer)}"
    return [*parts, text(_WIDTH - _RIGHT + 8, top + 16, found, "start", _INK)]


def _stroke(times: float, top: float, bottom: float, colour: str, more: str = "") -> str:
    x = _place(times)
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" {more}/>'


def _place(times: float) -> float:
    low, high = math.log(_TICKS[0]), math.log(_TICKS[-1])
    share = (math.log(min(max(times, _TICKS[0]), _TICKS[-1])) - low) / (high - low)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def markdown(table: CheckedEmbedding) -> str:
    """The same as a table of text."""
    head = ("work", "where", "flagai", "peer", "peer by default", "ratio", "peer tuned", "ratio", "target", "limit")
    rows = [_cells(head), _cells(["---"] * len(head))]
    return "\n".join(rows + [_cells(_texts(row, line)) for row, line in table])


def _cells(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _texts(row: Row, line: Line | None) -> list[str]:
    target = f"{row.target:g} ×" if row.ratio else f"{_number(row.target)} {row.unit}"
    if line is None:
        return [row.work, row.where, "not measured", row.rival, "", "", "", "", target, ""]
    tuned = ["", ""] if not row.tuning else ["not measured", ""]
    if line.tuned is not None and line.over_tuned is not None:
        tuned = [f"{_number(line.tuned)} ({row.tuning})", f"{line.over_tuned:.3g} ×"]
    limit = "" if line.allowed is None else f"{_number(line.allowed)} {row.unit}"
    ratio = f"{line.times:.3g} ×{'' if line.reached else ' (missed)'}"
    return [
        row.work,
        row.where,
        f"{_number(line.ours)} {row.unit}",
        row.rival,
        _number(line.peer),
        ratio,
        *tuned,
        target,
        limit,
    ]
