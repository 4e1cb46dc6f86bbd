"""What load.py prints: the tables, and whether the targets hold."""

from collections.abc import Sequence
from typing import Any

_Row = Sequence[str]


def report(results: dict[str, Any]) -> str:
    """All tables as text.

    Args:
        results: from load.py.
    """
    machine, versions = results["machine"], results["versions"]
    parts = [
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        ", ".join(f"{key} {value}" for key, value in versions.items()),
        f"Ready = loaded and every page touched; medians of {results['rounds']} fresh processes, imports not counted. "
        "The peer is transformers.",
        _table(
            [
                "model",
                "type",
                "cache",
                "MB",
                "limit s",
                "GB/s",
                "flagai s",
                "GB/s",
                "x limit",
                "transformers s",
                "faster",
            ],
            [_time_row(row) for row in results["times"]],
        ),
        "Memory of one load, as multiples of the files' bytes (flagai / transformers).",
        _table(
            ["model", "type", "peak anonymous", "kept anonymous", "peak resident"],
            [_memory_row(row) for row in results["memory"]],
        ),
        "Four processes load one model at once: memory of all (PSS) in copies of the files; seconds of the slowest.",
        _table(
            ["model", "flagai copies", "transformers copies", "flagai s", "transformers s"],
            [_together_row(row) for row in results["together"]],
        ),
        "Imports, seconds: " + ", ".join(f"{name} {time:.2f}" for name, time in results["imports"]["seconds"].items()),
        "Targets:\n" + "\n".join(f"  {_mark(row)} {row['target']}: {row['found']}" for row in results["targets"]),
    ]
    return "\n\n".join(parts)


def _time_row(row: dict[str, Any]) -> _Row:
    ours, peer, limit, size = row["ready_s"]["flagai"], row["ready_s"].get("transformers"), row["limit_s"], row["bytes"]
    return [
        row["case"],
        _types(row),
        row["cache"],
        f"{size / 1e6:.0f}",
        f"{limit:.3f}",
        f"{size / limit / 1e9:.1f}",
        f"{ours:.3f}",
        f"{size / ours / 1e9:.1f}",
        f"{ours / limit:.2f}",
        f"{peer:.3f}" if peer else "-",
        f"{peer / ours:.1f}x" if peer else "-",
    ]


def _types(row: dict[str, Any]) -> str:
    short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    file, loaded = short[row["file_dtype"]], short[row["dtype"] or row["file_dtype"]]
    return file if file == loaded else f"{file} > {loaded}"


def _memory_row(row: dict[str, Any]) -> _Row:
    keys = ("peak_anonymous", "kept_anonymous", "peak_resident")
    return [row["case"], _types(row), *(_pair(row, key) for key in keys)]


def _pair(row: dict[str, Any], key: str) -> str:
    values = [row[library][key] for library in ("flagai", "transformers") if library in row]
    return " / ".join(f"{value:.2f}" for value in values)


def _together_row(row: dict[str, Any]) -> _Row:
    keys = [("flagai", "pss"), ("transformers", "pss"), ("flagai", "slowest_s"), ("transformers", "slowest_s")]
    return [row["case"], *(f"{row[library][key]:.2f}" if library in row else "-" for library, key in keys)]


def _table(head: _Row, rows: Sequence[_Row]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(_align(cells, widths)) for cells in lines)


def _align(cells: _Row, widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [
        cell.rjust(width) if cell[:1].isdigit() or cell == "-" else cell.ljust(width)
        for cell, width in zip(cells, widths, strict=True)
    ]


def verdicts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare the figures with the project's targets.

    Args:
        results: from load.py, without the verdicts.
    """
    same = [row for row in results["memory"] if _types(row) == _types(row | {"dtype": None})]
    imports = results["imports"]
    seconds = imports["seconds"]
    found = [
        _at_most("peak anonymous memory / bytes, file's own type", 1.15, [r["flagai"]["peak_anonymous"] for r in same]),
        _at_most("four processes / one copy", 1.10, [row["flagai"]["pss"] for row in results["together"]]),
        _at_most("import of a model / import of torch", 1.10, [seconds["flagai"] / seconds["torch"]]),
        _at_most("import flagai loads torch", 0, [int(imports["flagai_alone_loads_torch"])]),
    ]
    for case, kind, target in (("BERT-base", "same", 4.0), ("GPT-2 1.3B, shards", "same", 2.0), (None, "cast", 2.0)):
        ratios = [
            row["ready_s"]["transformers"] / row["ready_s"]["flagai"]
            for row in results["times"]
            if row["cache"] == "warm"
            and "transformers" in row["ready_s"]
            and case in (None, row["case"])
            and (kind == "same") == (row["dtype"] == row["file_dtype"])
        ]
        found.append(_at_least(f"{case or 'every model'} warm, {kind} type, transformers / flagai", target, ratios))
    return [row for row in found if row["found"] is not None]


def _at_most(target: str, limit: float, values: Sequence[float]) -> dict[str, Any]:
    worst = max(values, default=None)
    return _verdict(f"{target} <= {limit:g}", worst, worst is not None and worst <= limit)


def _at_least(target: str, limit: float, values: Sequence[float]) -> dict[str, Any]:
    worst = min(values, default=None)
    return _verdict(f"{target} >= {limit:g}", worst, worst is not None and worst >= limit)


def _verdict(target: str, found: float | None, holds: bool) -> dict[str, Any]:
    return {"target": target, "found": None if found is None else round(found, 3), "holds": holds}


def _mark(row: dict[str, Any]) -> str:
    return "yes" if row["holds"] else "NO "
