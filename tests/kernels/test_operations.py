"""Every registered implementation computes what its plain operation computes, and refuses what it must refuse.

A new kernel is one file and its condition; here it needs cases in cases.py.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai import kernels
from flagai.kernels import hardware
from flagai.kernels.cpu import linear as cpu_linear
from flagai.kernels.packed import attention
from flagai.model.layer.kernel_choice import jit_kernels, only_kernels
from flagai.model.layer.operation import Implementation, Operation
from tests.kernels import cases, model_cases
from tests.kernels.case import Call, Case
from tests.kernels.conftest import DEVICE

ROOT = Path(__file__).parents[2]
# Implementations that the grid cannot run: why, and the test of each.
ELSEWHERE = {
    "decode.select.tensor_parallel_blocks": ("needs two processes", "tests/kernels/test_joint.py"),
    "decode.select.megakernel_blocks": ("needs a GPU and a large model", "tests/gpu/test_megakernel.py"),
}
TOLERANCES = {torch.float32: 5e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def operations() -> dict[str, Operation[Any, Any]]:
    """All operations that have implementations, by their names."""
    for module in (module for modules in kernels.MODULES.values() for module in modules):
        importlib.import_module(f"{kernels.__name__}.{module}")
    values = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("flagai.")
        for value in vars(module).values()
    ]
    return {value.name: value for value in values if isinstance(value, Operation) and value.implementations}


OPERATIONS = operations()
CASES = cases.CASES | model_cases.CASES
GRID = {name: list(make()) for name, make in CASES.items()}


def test_every_operation_has_cases() -> None:
    assert OPERATIONS.keys() == kernels.MODULES.keys()
    missing = sorted(OPERATIONS.keys() - CASES.keys())
    assert not missing, f"add cases for {', '.join(missing)} to tests/kernels/cases.py"
    assert CASES.keys() <= OPERATIONS.keys()


def test_every_file_that_registers_is_imported() -> None:
    folder = Path(kernels.__file__).parent
    files = [path for path in folder.rglob("*.py") if ".faster(" in path.read_text(encoding="utf-8")]
    found = {".".join(path.relative_to(folder).with_suffix("").parts) for path in files}
    assert found == {module for modules in kernels.MODULES.values() for module in modules}


def test_every_implementation_is_chosen_by_a_case() -> None:
    names = {each.name for _, each in registered()}
    chosen = {case.chosen for cases in GRID.values() for case in cases}
    assert chosen - {"plain"} == names - ELSEWHERE.keys()
    assert ELSEWHERE.keys() <= names
    assert all((ROOT / path).is_file() for _, path in ELSEWHERE.values())


def registered() -> Iterator[tuple[str, Implementation[Any, Any]]]:
    """Every implementation with its operation's name."""
    return ((name, each) for name, operation in OPERATIONS.items() for each in operation.implementations)


def test_every_implementation_has_a_row_in_the_readme() -> None:
    text = (Path(kernels.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted((name, each.name) for name, each in registered())


def arguments(case: Case) -> Call:
    """The same for every computation: no kernel has a part in them."""
    torch.manual_seed(0)
    with only_kernels():
        call = case.make("cpu" if case.device == "cpu" else DEVICE)
    torch.manual_seed(1)
    return call


def compute(operation: Operation[Any, Any], case: Case) -> Any:
    """What is observed after a case has been computed."""
    with case.context():
        call = arguments(case)
        return call.observed(operation(*call.args, **call.kwargs))


def chosen(operation: Operation[Any, Any], case: Case) -> str:
    """The name of the implementation that computes a case."""
    with case.context():
        call = arguments(case)
        implementation = operation.choose(*call.args, **call.kwargs)
        names = {each.compute: each.name for each in operation.implementations}
        return names.get(implementation, "plain")


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}: {case.about}") for name, cases in GRID.items() for case in cases],
)
def test_equals_plain(name: str, case: Case, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if case.device == "triton" and DEVICE == "cpu":  # Triton's interpreter
        request.getfixturevalue("device")
        monkeypatch.setattr(hardware, "has_triton", lambda _: True)
        for module in (hardware, attention):
            monkeypatch.setattr(module, "is_ampere", lambda _: True)
    if case.chosen.startswith(("cpu.linear", "cpu.decode")):
        if not torch.backends.mkl.is_available():
            pytest.skip("needs MKL")
        monkeypatch.setattr(cpu_linear, "HAS_ONEDNN", True)  # also where it would not be the fastest
    operation = OPERATIONS[name]
    with jit_kernels():
        assert chosen(operation, case) == case.chosen
        found = compute(operation, case)
    with only_kernels():
        wanted = compute(operation, case)
    tolerance = TOLERANCES[case.dtype]
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance, equal_nan=True)
