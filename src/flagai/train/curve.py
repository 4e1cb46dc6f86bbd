"""The training curve as an SVG picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flagai.checkpoint.atomic import replace_file

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _MARGIN = 640, 360, 48
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_TICKS = 5


def write_curve(path: Path, series: Mapping[str, Points], title: str) -> None:
    """Draw lines over the steps of a training: (step, value) by the name of the line."""
    points = [point for line in series.values() for point in line] or [(0.0, 0.0)]
    steps, values = [step for step, _ in points], [value for _, value in points]
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    across, up = max(right - left, 1e-9), max(high - low, 1e-9)

    def place(step: float, value: float) -> str:
        x = _MARGIN + (step - left) / across * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (value - low) / up * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    parts = [text(_WIDTH / 2, 24, title, "middle")]
    for tick in range(_TICKS):
        value, step = low + up * tick / (_TICKS - 1), left + across * tick / (_TICKS - 1)
        start, end = place(left, value), place(right, value)
        parts.append(f'<polyline points="{start} {end}" stroke="#ddd" fill="none"/>')
        parts.append(text(_MARGIN - 6, float(start.split(",")[1]) + 4, f"{value:.3g}", "end"))
        parts.append(text(float(place(step, low).split(",")[0]), _HEIGHT - _MARGIN + 18, f"{step:.0f}", "middle"))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = " ".join(place(step, value) for step, value in line)
        parts.append(f'<polyline points="{drawn}" stroke="{colour}" fill="none" stroke-width="1.5"/>')
        parts.append(text(_WIDTH - _MARGIN, _MARGIN + 16 * number, name, "end", colour))
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    body = "\n".join([frame, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"])
    with replace_file(path) as temporary:
        temporary.write_text(body + "\n", encoding="utf-8", newline="\n")


def text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    """Words in an SVG picture, anchored (at "start", "middle" or "end") at a place from the left and from above."""
    safe = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{colour}">{safe}</text>'
