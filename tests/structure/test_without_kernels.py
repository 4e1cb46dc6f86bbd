"""Deleting ``flagai/kernels`` changes nothing but time: a copy of the library without it gives the same answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.structure.answers import answers
from tests.structure.sources import ROOT, SOURCE

# Of these folders every test file runs, but those whose text names flagai.kernels.
SUITES = ("parity", "model", "generation", "predictor")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process that imports a copy of the library without kernels."""
    source = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(SOURCE, source / "flagai", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)]), "PYTHONSAFEPATH": "1"}
    check = "import flagai, importlib.util as util; print(flagai.__file__, util.find_spec('flagai.kernels'))"
    found = subprocess.run([sys.executable, "-c", check], env=variables, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(source / "flagai" / "__init__.py"), "None"]
    return variables


def test_every_family_answers_the_same(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "answers.pt"
    subprocess.run([sys.executable, "-m", "tests.structure.answers", file], env=environment, cwd=ROOT, check=True)
    found, expected = torch.load(file), answers()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert found[name] == value, name


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_suites_pass(environment: dict[str, str], suite: str) -> None:
    files = sorted((ROOT / "tests" / suite).rglob("test_*.py"))
    chosen = [file for file in files if "flagai.kernels" not in file.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *map(str, chosen)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
