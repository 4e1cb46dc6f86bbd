"""The table as an SVG picture that reads on light and dark backgrounds, and as Markdown."""

import math
from collections.abc import Sequence

from _targets import Line, Row

from flagai.train.curve import text

_LEFT, _RIGHT, _LINE, _TOP, _WIDTH = 260, 250, 26, 64, 1040
_INK, _FAINT, _MET, _MISSED, _LIMIT = "#7d8590", "#7d859055", "#2da44e", "#d4772c", "#4c8eda"
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
Table = Sequence[tuple[Row, Line | None]]


def picture(table: Table, title: str) -> str:
    """A bar for each row: how many times better than the peer; a stroke for the target, a dotted one for the limit.

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
    return "times faster than transformers (or as said); | target, ¦ the hardware's limit; green: met, orange: missed"


def _bar(row: Row, line: Line | None, top: float) -> list[str]:
    parts = [text(_LEFT - 8, top + 16, f"{row.where}: {row.work}", "end", _INK)]
    if line is None:
        return [*parts, text(_LEFT + 8, top + 16, "not measured", "start", _INK)]
    begin, end = sorted((_place(1), _place(line.times)))
    colour = _MET if line.reached else _MISSED
    parts.append(f'<rect x="{begin:.1f}" y="{top + 3:.1f}" width="{end - begin:.1f}" height="17" fill="{colour}"/>')
    if line.limit is not None:
        parts.append(_stroke(line.limit, top, top + 23, _LIMIT, 'stroke-width="2.5" stroke-dasharray="3 2"'))
    parts.append(_stroke(line.target, top, top + 23, _INK, 'stroke-width="2.5"'))
    found = f"{line.times:.3g} ×: {_number(line.ours)} {row.unit}, {_number(line.peer)}"
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


def markdown(table: Table) -> str:
    """The same as a table of text."""
    rows = ["| work | where | flagai | compared with | ratio | target | limit |", "|---|---|---|---|---|---|---|"]
    for row, line in table:
        if line is None:
            target = f"{row.target:g} ×" if row.ratio else f"{_number(row.target)} {row.unit}"
            rows.append(f"| {row.work} | {row.where} | not measured | {row.rival} | | {target} | |")
            continue
        limit = "" if line.limit is None else f"{line.limit:.3g} ×"
        rows.append(
            f"| {row.work} | {row.where} | {_number(line.ours)} {row.unit} | {row.rival} {_number(line.peer)} | "
            f"{line.times:.3g} ×{'' if line.reached else ' (missed)'} | {line.target:.3g} × | {limit} |"
        )
    return "\n".join(rows)
