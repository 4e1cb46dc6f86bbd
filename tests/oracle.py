"""Reading the reference cases in ``tests/oracles`` and comparing with them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent / "oracles"


@dataclass
class Scenario:
    """One call of the reference: inputs, the outputs it gave, and which rows of them mean something."""

    case: str
    model_class: str
    meta: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    valid: torch.Tensor | None
    tolerance: dict[str, float]

    def check(self, name: str, got: torch.Tensor) -> None:
        """Compare one output, or any of those that the case accepts in its place."""
        step = self.meta.get("output_slice")
        if step and name == "logits":
            got = got[:, :: int(step.split("::")[1].rstrip("]"))]
        names = self.meta.get("accept_any_of", {}).get(name, [name])
        errors = [self._error(got, self.outputs[alternative]) for alternative in names if alternative in self.outputs]
        assert min(errors) <= 1, f"{self.case}.{self.meta['name']}.{name}: {min(errors):.3g} times the tolerance"

    def _error(self, got: torch.Tensor, want: torch.Tensor) -> float:
        assert got.shape == want.shape
        want = want.float()
        error = (got.detach().float() - want).abs() / (self.tolerance["atol"] + self.tolerance["rtol"] * want.abs())
        if self.valid is not None and not self.meta.get("compare_all_rows") and want.shape[:2] == self.valid.shape:
            error = error[self.valid]
        return float(error.nan_to_num(nan=torch.inf).max())


def scenarios() -> list[Any]:
    """Every scenario of every case, as pytest parameters."""
    import pytest

    found = []
    for folder in sorted(ROOT.iterdir()):
        meta = json.loads((folder / "case.json").read_text())
        inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        for entry in meta["scenarios"]:
            if entry.get("informational"):
                continue  # a bug of the original, on record
            scenario = Scenario(
                case=meta["name"],
                model_class=meta["model_class"],
                meta=entry,
                inputs={key: inputs[value] for key, value in entry["inputs"].items()},
                outputs={key: outputs[value] for key, value in entry["outputs"].items()},
                valid=inputs[entry["valid"]] if "valid" in entry else None,
                tolerance=meta["tolerance"],
            )
            found.append(pytest.param(scenario, id=f"{meta['name']}-{entry['name']}"))
    return found
