"""What an import costs, and what takes the place of modules that are absent."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flagai.absent import DISTRIBUTION, INSTEAD


def loaded_by(statement: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing() -> None:
    assert not {"torch", "numpy", "tokenizers", "typer"} & loaded_by("import flagai")


def test_the_command_line_starts_without_torch() -> None:
    assert "torch" not in loaded_by("import flagai.cli")


def test_the_catalog_is_read_without_torch() -> None:
    statement = "from flagai.catalog.packages import find_model; find_model('all-MiniLM-L6-v2')"
    assert not {"torch", "numpy", "tokenizers", "typer", "rich"} & loaded_by(statement)


def test_a_model_class_loads_little_besides_torch() -> None:
    extra = loaded_by("from flagai.model.glm_model import GLMModel") - loaded_by("import torch")
    assert not {name for name in extra if name.startswith(("transformers", "safetensors", "tokenizers", "typer"))}
    assert not {name for name in extra if name.startswith(("torch.distributed.tensor", "torch._dynamo"))}


def test_it_is_not_imported_beside_the_original(tmp_path: Path) -> None:
    here = str(Path(importlib.util.find_spec("flagai").submodule_search_locations[0]).parent)
    command = [sys.executable, "-c", "import flagai; print(flagai.__version__)"]
    for wrong in (False, True):
        if wrong:
            (tmp_path / "flagai").mkdir()
            for name in ("__init__", "trainer"):
                (tmp_path / "flagai" / f"{name}.py").touch()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, str(tmp_path)])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode != 0) is wrong, done.stderr
    for part in (str(tmp_path / "flagai"), "pip uninstall flagai", DISTRIBUTION):
        assert part in done.stderr


def test_the_distribution_has_one_name() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    inner = [need for extra in project["optional-dependencies"].values() for need in extra if need.startswith("flagai")]
    assert inner
    assert all(need.startswith(f"{DISTRIBUTION}[") for need in inner)


@pytest.mark.parametrize("name", INSTEAD)
def test_a_module_of_the_original_says_what_does_the_same_here(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"no {name}: .*Use .*differences-from-flagai") as caught:
        importlib.import_module(f"{name}.anything")
    assert caught.value.name == name
    for module in re.findall(r"flagai(?:\.[a-z_]+)+", INSTEAD[name]):
        parent, _, leaf = module.rpartition(".")
        assert hasattr(importlib.import_module(parent), leaf) or importlib.util.find_spec(module), module
