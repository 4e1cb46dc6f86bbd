"""``flagai run embed`` over files of several sizes: rows per second, and the peak of the memory.

    python benchmarks/jobs.py --rows 50000,250000 --out results.json

The peak must not depend on the size. Each job is a process of its own. The texts are short English sentences, all
different; the vectors go to Parquet.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flagai.catalog.tasks import DEFAULT_EMBEDDING

_WORDS = ("the", "old", "red", "small", "train", "river", "teacher", "letter", "runs", "writes", "near", "city", "of")
_LENGTHS = range(5, 16)
_TICK = 0.2  # seconds between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="50000,250000", help="Sizes of the files.")
    parser.add_argument("--model", default=DEFAULT_EMBEDDING)
    parser.add_argument("--limit", type=float, help="Seconds after which a job is stopped.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            found.append(measure(Path(scratch), rows, options.model, options.limit))
        print(json.dumps(found[-1]), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps({"jobs": found}, indent=1) + "\n", encoding="utf-8")


def measure(scratch: Path, rows: int, model: str, limit: float | None) -> dict[str, Any]:
    """One job: its rows, seconds and the most memory that it held."""
    texts, out = scratch / "texts.txt", scratch / "vectors"
    write_sentences(texts, rows)
    command = ["run", "embed", "--in", str(texts), "--out", str(out), "--format", "parquet", "--model", model]
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "flagai", *command], env=os.environ | {"FLAGAI_OFFLINE": "1"})
    peak, first = 0, None
    while process.poll() is None:
        time.sleep(_TICK)
        peak = max(peak, resident(process.pid))
        if first is None and done(out):
            first = time.perf_counter(), done(out)
        if limit is not None and time.perf_counter() - begin > limit:
            process.kill()
    seconds = time.perf_counter() - begin
    written, (started, earlier) = done(out) * 1000, first or (begin, 0)
    return {
        "rows of the file": rows,
        "bytes of the file": texts.stat().st_size,
        "rows done": min(written, rows),
        "seconds": round(seconds, 1),
        "rows/s": round((written - 1000 * earlier) / max(begin + seconds - started, 1e-9), 1),
        "peak MiB": round(peak / 2**20, 1),
        "exit code": process.returncode,
    }


def write_sentences(path: Path, count: int) -> None:
    """A sentence a line."""
    chance = random.Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(f"{' '.join(chance.choices(_WORDS, k=chance.choice(_LENGTHS)))} {number}\n")


def done(out: Path) -> int:
    """The parts that have been written."""
    return len(list(out.glob("texts-*.parquet")))


def resident(pid: int) -> int:
    """The memory of a process, in bytes: pages that it does not share with the page cache."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
