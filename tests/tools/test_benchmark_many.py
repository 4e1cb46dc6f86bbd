"""The benchmark of many texts works from end to end, on a small model on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(folder: Path, rows: str) -> dict[str, Any]:
    """The results of some rows."""
    out = folder / "many.json"
    command = [sys.executable, "benchmarks/many.py", "--tiny", "--rows", rows, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["many"]
    return found


def test_all_rows_of_this_library_are_measured(tmp_path: Path) -> None:
    found = measured(tmp_path, "single,batch,samples,beams,stream,equal")
    assert "error" not in json.dumps(found), found
    assert found["batch"]["batch 3"]["tokens/s"] > 0
    assert found["beams"]["beams, batch 2"]["answers/s"] > 0
    assert set(found["samples"]["growth"]) == {"samples", "tokens"}
    for way in ("all at once", "arrivals at 80 %"):
        assert found["stream"][way]["missing tokens"] == 0
        assert found["stream"][way]["first token, ms"]["p50"] <= found["stream"][way]["first token, ms"]["p99"]
    assert found["equal"]["different"] == 0
    assert set(found["equal"]["GLM"]["kinds"]) >= {"greedy", "sampling", "beams", "contrastive", "lookup", "blanks"}


@pytest.mark.slow
def test_transformers_writes_the_same_titles(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = measured(tmp_path, "file")["file"]
    for way in ("as they come", "sorted"):
        assert found[f"transformers, {way}"]["different"] == 0
        assert found[f"transformers, {way}"]["titles/s"] > 0
