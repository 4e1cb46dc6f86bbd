"""Loading time and memory of flagai beside transformers and the raw read limit; see benchmarks/README.md."""

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _measure
from _checkpoints import CASES, Case, prepare
from _load_gpu import GpuBench
from _load_gpu import run as run_gpu
from _load_report import report, verdicts

_WORKER = Path(__file__).with_name("_load_worker.py")
_FLAGAI, _PEER = "flagai", "transformers"
_IMPORTS = {
    "torch": "import torch",
    "flagai": "from flagai.model.glm_model import GLMModel",
    "transformers": "from transformers import BertModel",
}
_TOGETHER = 4


class Bench:
    """Measures cases in fresh processes.

    Args:
        scratch: where the checkpoints are.
        rounds: how often a time is taken.
    """

    def __init__(self, scratch: Path, rounds: int) -> None:
        self.scratch = scratch
        self.rounds = rounds
        self._imported_late: dict[tuple[str, ...], list[str]] = {}

    def task(self, case: Case, library: str, dtype: str | None) -> dict[str, Any]:
        """What the worker shall do."""
        ours = library == _FLAGAI
        options = {} if dtype is None else {"dtype": dtype}
        if not ours and case.pickled:
            options |= {"use_safetensors": False}
        cls = case.cls if ours else str(case.peer)
        key = (library, cls, str(dtype), str(case.pickled))
        task = {
            "module": f"flagai.model.{case.module}" if ours else "transformers",
            "cls": cls,
            "folder": str(self.scratch / case.folder),
            "options": options,
            "preimport": [],
        }
        if key not in self._imported_late:  # a run that only tells what the load imports, so that later ones need not
            with self._ready(task) as worker:
                worker.go()
                self._imported_late[key] = worker.result()["imported_late"]
        return task | {"preimport": self._imported_late[key]}

    @contextlib.contextmanager
    def _ready(self, task: dict[str, Any]) -> Iterator[_measure.Worker]:
        with _measure.Worker(_WORKER, task) as worker:
            worker.wait_until_ready()
            yield worker

    def time(self, case: Case, dtype: str | None, *, cold: bool) -> dict[str, Any]:
        """Time flagai, its peer and the raw read in turns.

        Args:
            case: the checkpoint.
            dtype: the type to cast to; None for the file's own.
            cold: drop the files from the page cache before each load.
        """
        files = case.files(self.scratch)
        size = sum(file.stat().st_size for file in files)
        libraries = [_FLAGAI] + ([_PEER] if case.peer else [])
        tasks = {library: self.task(case, library, dtype) for library in libraries}
        runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
        limits = []
        # Freshly written files lie in the cache in larger pieces than files that were read: start from the latter.
        _measure.drop_from_cache(files)
        _measure.read_limit(files, [1])
        for _ in range(self.rounds):
            limits.append(_measure.read_limit(files, cold=cold))
            for library, task in tasks.items():
                with self._ready(task) as worker:
                    if dtype:
                        _measure.claim_memory(2 * size)
                    if cold:
                        _measure.drop_from_cache(files)
                    worker.go()
                    runs[library].append(worker.result())
        return {
            "case": case.title,
            "bytes": size,
            "cache": "cold" if cold else "warm",
            "file_dtype": case.dtype,
            "dtype": runs[_FLAGAI][0]["dtype"],
            "limit_s": statistics.median(limits),
            "ready_s": {library: statistics.median(run["ready_s"] for run in done) for library, done in runs.items()},
            "runs": runs | {"limit": limits},
        }

    def memory(self, case: Case, dtype: str | None) -> dict[str, Any]:
        """The peaks of one load above what the imports take, as multiples of the bytes of the files."""
        size = sum(file.stat().st_size for file in case.files(self.scratch))
        row: dict[str, Any] = {"case": case.title, "bytes": size, "file_dtype": case.dtype, "dtype": dtype}
        for library in [_FLAGAI] + ([_PEER] if case.peer else []):
            with self._ready(self.task(case, library, dtype)) as worker:
                before = worker.memory()
                with worker.peak() as peak:
                    worker.go()
                    worker.result()
                after = worker.memory()
            row[library] = {
                "peak_anonymous": (peak["RssAnon"] - before["RssAnon"]) / size,
                "kept_anonymous": (after["RssAnon"] - before["RssAnon"]) / size,
                "peak_resident": (after["VmHWM"] - before["VmRSS"]) / size,
            }
        return row

    def together(self, case: Case) -> dict[str, Any]:
        """Four processes load one model at once and hold it: the memory of all, relative to one copy."""
        size = sum(file.stat().st_size for file in case.files(self.scratch))
        row: dict[str, Any] = {"case": case.title, "bytes": size, "processes": _TOGETHER}
        for library in [_FLAGAI] + ([_PEER] if case.peer else []):
            task = self.task(case, library, None)
            with contextlib.ExitStack() as stack:
                workers = [stack.enter_context(_measure.Worker(_WORKER, task)) for _ in range(_TOGETHER)]
                for worker in workers:
                    worker.wait_until_ready()
                before = sum(worker.pss() for worker in workers)
                for worker in workers:
                    worker.go()
                slowest = max(worker.result()["ready_s"] for worker in workers)
                after = sum(worker.pss() for worker in workers)
            row[library] = {"pss": (after - before) / size, "slowest_s": slowest}
        return row

    def imports(self) -> dict[str, Any]:
        """Import times in fresh processes, in turns, and whether ``import flagai`` stays free of torch."""
        timer = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
        runs: dict[str, list[float]] = {name: [] for name in _IMPORTS}
        for index in range(2 * self.rounds + 1):  # imports vary more than loads
            for name, code in _IMPORTS.items():
                seconds = float(_measure.run_python(timer.format(code)))
                if index:  # the first round brings the files into the page cache
                    runs[name].append(seconds)
        loads_torch = _measure.run_python("import sys, flagai; print('torch' in sys.modules)") == "True"
        medians = {name: statistics.median(times) for name, times in runs.items()}
        return {"seconds": medians, "runs": runs, "flagai_alone_loads_torch": loads_torch}


def run(cases: list[Case], bench: Bench, *, cold: bool) -> dict[str, Any]:
    """Measure everything.

    Args:
        cases: the checkpoints.
        bench: how.
        cold: also with an empty page cache.
    """
    results: dict[str, Any] = {
        "machine": _measure.machine(),
        "versions": _measure.versions(),
        "rounds": bench.rounds,
        "times": [],
        "memory": [],
        "together": [],
    }
    _say("imports")
    results["imports"] = bench.imports()
    for case in cases:
        _say(case.title)
        prepare(case, bench.scratch)
        results["times"] += [bench.time(case, dtype, cold=False) for dtype in (None, *case.casts)]
        if cold:
            if _measure.drop_from_cache(case.files(bench.scratch)):
                results["times"].append(bench.time(case, None, cold=True))
            else:
                _say("this system keeps files in its cache: no cold times")
        results["memory"] += [bench.memory(case, dtype) for dtype in (None, *case.casts)]
        if case.together:
            results["together"].append(bench.together(case))
    results["targets"] = verdicts(results)
    return results


def run_times(cases: list[Case], bench: Bench, out: Path | None) -> None:
    """Measure only times and the memory of four processes, and write what there is after each.

    Args:
        cases: the checkpoints.
        bench: how.
        out: the file to write.
    """
    results: dict[str, Any] = {"machine": _measure.machine(), "versions": _measure.versions(), "rounds": bench.rounds}
    results |= {"times": [], "together": []}

    def note(kind: str, row: dict[str, Any], found: object) -> None:
        results[kind].append(row)
        _say(f"{row['case']} {row.get('dtype', kind)}: {found}")
        if out is not None:
            out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    for case in cases:
        prepare(case, bench.scratch)
        for dtype in (None, *case.casts):
            row = bench.time(case, dtype, cold=False)
            note("times", row, row["ready_s"])
    for case in cases:
        row = bench.together(case)
        note("together", row, row[_FLAGAI])


def _say(text: str) -> None:
    print(f"... {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="10 billion parameters into a GPU, and nothing on the CPU")
    parser.add_argument("--quick", action="store_true", help="BERT-base only, three rounds; on a GPU 12 layers, not 48")
    parser.add_argument("--only", default="", help="folders of the checkpoints to load, with commas between")
    parser.add_argument("--cold", action="store_true", help="also measure with an empty page cache")
    parser.add_argument("--times", action="store_true", help="only times and the memory of four processes")
    parser.add_argument("--tune", action="store_true", help="with --gpu: also other numbers of readers and buffers")
    parser.add_argument("--rounds", type=int, help="how often each time is taken (default 5; with --quick or --gpu 3)")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "flagai-benchmarks",
        help="where the checkpoints are made and reused (7 GB; with --quick 1; with --gpu 40, both 11)",
    )
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    rounds = chosen.rounds or (3 if chosen.quick or chosen.gpu else 5)
    if chosen.gpu:
        gpu = GpuBench(chosen.folder, quick=chosen.quick, rounds=rounds, out=chosen.out, commit=chosen.commit)
        run_gpu(gpu, cold=chosen.cold, tune=chosen.tune)
        return
    only = set(filter(None, chosen.only.split(",")))
    cases = [case for case in CASES if (case.quick or not chosen.quick) and (not only or case.folder in only)]
    if chosen.times:
        run_times(cases, Bench(chosen.folder, rounds), chosen.out)
        return
    results = run(cases, Bench(chosen.folder, rounds), cold=chosen.cold)
    print(report(results))
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
