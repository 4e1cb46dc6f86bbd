"""The table of the benchmarks: figures are found in the results that are kept, and misses and gaps are shown."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def drawn(folder: Path, *results: Path) -> tuple[str, str]:
    """The table and the picture that the command makes of results."""
    picture = folder / "speed.svg"
    command = [sys.executable, "-m", "benchmarks", "--picture", str(picture), "--draw", *map(str, results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, picture.read_text(encoding="utf-8")


def test_the_kept_results_are_drawn(tmp_path: Path) -> None:
    table, picture = drawn(tmp_path, *sorted((ROOT / "benchmarks" / "results").glob("*.json")))
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in table.splitlines()[2:]}
    assert "GLM-10b" in next(line for (work, where), line in rows.items() if where == "GPU")
    assert len(rows) == len(table.splitlines()) - 2, "every row has a name of its own"
    assert "not measured" not in rows[("load GLM-10b, bf16, warm", "GPU")]
    texts = [element.text for element in ElementTree.fromstring(picture) if element.tag.endswith("text")]
    assert all(any(text and text.endswith(work) for text in texts) for work, _ in rows)


def test_misses_and_gaps_are_visible(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    steps = {"limit": 20.0, "greedy": {"flagai": 30.0, "transformers": 42.0, "tuned": 36.0}}
    results.write_text(json.dumps({"parts": {"cpu step": {"step": steps}}}), encoding="utf-8")
    table, picture = drawn(tmp_path, results)
    line = next(line for line in table.splitlines() if line.startswith("| GPT-2 124M, a token | CPU"))
    assert "30 ms" in line
    assert "1.4 × (missed)" in line
    assert "36 (static cache, compiled) | 1.2 ×" in line
    assert "| 20 ms |" in line
    assert table.count("not measured") == len(table.splitlines()) - 3
    assert "#d4772c" in picture
    assert "#2da44e" not in picture
