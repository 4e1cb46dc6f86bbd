"""Every file of the benchmarks can be imported: what they take from the library and from the tests is there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Scripts find each other beside themselves, or as a package.
_IMPORT = """
import importlib, sys
sys.path[:0] = [{src!r}, {root!r}, {here!r}]
failed = []
for name in {names!r}:
    try:
        importlib.import_module("benchmarks." + name)
    except ImportError as error:
        failed.append(name + ": " + str(error))
sys.exit("; ".join(failed) or 0)
"""


def test_every_benchmark_can_be_imported() -> None:
    here = ROOT / "benchmarks"
    names = sorted(file.stem for file in here.glob("*.py") if not file.stem.startswith("__"))
    assert "many" in names
    code = _IMPORT.format(src=str(ROOT / "src"), root=str(ROOT), here=str(here), names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
