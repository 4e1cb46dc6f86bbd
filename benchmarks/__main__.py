"""Everything at once: all benchmarks that suit this machine, one JSON, one picture, one table.

    python -m benchmarks --out results.json --picture speed.svg     # 2 CPU cores: 25 minutes; a GPU: 20
    python -m benchmarks --only step,titles                         # some of them
    python -m benchmarks --draw benchmarks/results/*.json           # only the picture and the table, from results

Each benchmark is a process of its own, with a time limit; one that fails is a result, and the rest goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))

from _measure import machine, versions  # noqa: E402
from _plot import markdown, picture  # noqa: E402
from _targets import ROWS, lines  # noqa: E402

# name: (script and arguments, seconds at most); {folder} is scratch space.
_CPU = {
    "load": (("load.py", "--only", "bert,gpt2", "--times", "--rounds", "2", "--folder", "{folder}"), 420),
    "step": (("step.py", "--rounds", "3"), 300),
    "titles": (("write.py", "--texts", "8", "--without", "original"), 300),
    "many": (("many.py", "--limit", "700"), 900),
    "minilm": (("predict.py", "--model", "minilm", "--texts", "256", "--rounds", "2"), 100),
    "embedding": (("predict.py", "--texts", "128", "--rounds", "1"), 150),
}
# Of decoding, what the table shows; decode.py by itself measures more.
_DECODE = "limits,int8,int4,gpt2,t5,bert,peer10b,first_tokens,equal"
_GPU = {
    "load": (("load.py", "--gpu", "--cold", "--rounds", "2", "--folder", "{folder}"), 420),
    "decode": (("decode.py", "--quick", "--peers", "--only", _DECODE), 900),
    "many": (("many.py",), 900),
}
_GPUS = {"parallel": (("parallel.py",), 420)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--picture", type=Path, help="write the picture (SVG)")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "flagai-benchmarks")
    parser.add_argument("--draw", type=Path, nargs="+", help="results to draw, the newest last; nothing is measured")
    options = parser.parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in options.draw or ()]
    if not options.draw:
        found = [measured(set(filter(None, options.only.split(","))), options.folder, options.out)]
    table = lines(flat(found))
    print(markdown(table))
    if options.picture is not None:
        options.picture.write_text(picture(table, heading(found)), encoding="utf-8")


def measured(only: set[str], folder: Path, out: Path | None) -> dict[str, Any]:
    """Run what suits the machine; what there is already is written after each benchmark."""
    import torch

    gpus = torch.cuda.device_count()
    plans = [("gpu", _GPU)] * (gpus > 0) + [("gpus", _GPUS)] * (gpus > 1) + [("cpu", _CPU)] * (gpus == 0)
    found: dict[str, Any] = {"machine": machine(), "versions": versions(), "parts": {}}
    found["gpu"] = [torch.cuda.get_device_name(index) for index in range(gpus)]
    folder.mkdir(parents=True, exist_ok=True)
    for kind, plan in plans:
        for name, (command, seconds) in plan.items():
            if not only or name in only:
                print(f"... {kind}: {' '.join(command)} (at most {seconds} s)", flush=True)
                found["parts"][f"{kind} {name}"] = run(name, command, seconds, folder)
                if out is not None:
                    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def run(name: str, command: tuple[str, ...], seconds: int, folder: Path) -> dict[str, Any]:
    """One benchmark; what it had written when its time was over counts."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.json"
        arguments = [part.replace("{folder}", str(folder)) for part in command[1:]]
        paths = os.pathsep.join(filter(None, [str(_HERE.parent), os.environ.get("PYTHONPATH")]))
        error = None
        try:
            subprocess.run(
                [sys.executable, str(_HERE / command[0]), *arguments, "--out", str(out)],
                env=os.environ | {"PYTHONPATH": paths}, timeout=seconds, check=True,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as failure:
            error = str(failure)[-300:]
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if name == "minilm" and "embedding" in result:
        result["minilm"] = result.pop("embedding")
    return result | ({} if error is None else {"error": error})


def flat(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All results of single scripts, the newest first."""
    parts: list[dict[str, Any]] = []
    for each in found:
        parts += each["parts"].values() if "parts" in each else [each]
    return parts[::-1]


def heading(found: list[dict[str, Any]]) -> str:
    """Which machines, libraries and commits the figures come from; results that no row shows are left out."""
    everything = flat(found)
    found = [each for each in found if any(row.ours(flat([each])) == row.ours(everything) is not None for row in ROWS)]
    gpus = sorted({str(name) for each in found for name in _names(each.get("gpu")) + _names(each.get("device"))})
    machines = sorted({f"{each['machine']['cores']} cores {each['machine']['processor']}"
                       for each in found if "machine" in each and not each.get("gpu") and not each.get("device")
                       and "GPU" not in each.get("steps", {})})  # fmt: skip
    versions = [each["versions"] for each in found if "versions" in each]
    commits, torch, transformers = (
        ", ".join(sorted({str(each.get(name)).partition("+")[0][:7] for each in versions}))
        for name in ("commit", "torch", "transformers")
    )
    return f"{', '.join([*gpus, *machines])}; torch {torch}; transformers {transformers}; commits {commits}"


def _names(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [value] if value else []


if __name__ == "__main__":
    main()
