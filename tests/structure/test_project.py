"""CI installs every extra, and tests each version of Python that the package names."""

import re
import tomllib

import yaml

from flagai import __version__
from tests import without_torch
from tests.structure.sources import ROOT, SOURCE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# Clients of services, which do nothing without an account.
SERVICES = {"swanlab", "wandb"}


def installed_by(extra: str) -> set[str]:
    """An extra and those that it brings along."""
    entries = PROJECT["optional-dependencies"][extra]
    named = {name for entry in entries for name in re.findall(r"^flagai-lm\[(.*)\]", entry)}
    return {extra}.union(*(installed_by(other) for names in named for other in names.split(",")))


def test_every_extra_is_installed_in_ci() -> None:
    assert installed_by("dev") | SERVICES == PROJECT["optional-dependencies"].keys()
    assert '-e ".[dev]"' in (ROOT / ".ci" / "run").read_text()


def test_every_promised_python_is_tested() -> None:
    promised = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)}
    (newer,) = re.findall(r"^for version in (.*); do$", (ROOT / ".ci" / "without_torch").read_text(), re.MULTILINE)
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert {lowest, *newer.split()} == promised


def test_files_that_need_no_torch_exist() -> None:
    assert [name for name in without_torch.FILES if not (without_torch.TESTS / name).exists()] == []


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])[a-z_0-9]+(?:/[a-z_0-9]+)*(?:\.py|/)(?![\w/])", text))
    assert {name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()} == set()


def test_every_decision_is_linked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folder = ROOT / "docs" / "engineering" / "decisions"
    assert sorted(re.findall(r"\(engineering/decisions/(.*?)\)", text)) == sorted(
        page.name for page in folder.iterdir()
    )


def test_forms_of_the_repository_can_be_read() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    for form in (yaml.safe_load(path.read_text(encoding="utf-8")) for path in forms):
        assert {"name", "description", "body"} <= form.keys()
        assert all({"type", "attributes"} <= field.keys() for field in form["body"])
