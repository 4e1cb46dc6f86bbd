"""Packages are located, never imported; nothing of them runs."""

import sys
from pathlib import Path

import pytest

from flagai.catalog.catalog import list_models
from flagai.catalog.packages import find_model, installed_folder
from flagai.errors import HubError, ModelNotFoundError
from flagai.hub import ensure


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Python packages whose code must not run."""
    (tmp_path / "outer_pkg" / "inner" / "model").mkdir(parents=True)
    (tmp_path / "spaced" / "below" / "model").mkdir(parents=True)  # without __init__.py: a namespace
    for place in ("outer_pkg", "outer_pkg/inner"):
        (tmp_path / place / "__init__.py").write_text("raise SystemExit('the code of a package ran')")
    for place in ("outer_pkg/inner/model", "spaced/below/model"):
        (tmp_path / place / "config.json").write_text("{}")
    (tmp_path / "single.py").write_text("raise SystemExit('the code of a module ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("outer_pkg/inner/model", "outer_pkg/inner/model"),
        ("outer_pkg.inner/model", "outer_pkg/inner/model"),
        ("spaced.below/model", "spaced/below/model"),
        ("outer_pkg.absent/model", None),
        ("outer_pkg.inner.absent/model", None),
        ("single.below/model", None),
        ("single.outer_pkg/model", None),
        ("sys/model", None),
        ("single/model", "model"),
        ("absent.below/model", None),
        ("absent/model", None),
        (".outer_pkg/model", None),
        ("outer_pkg..inner/model", None),
        ("", None),
        ("outer_pkg\0/model", None),
        ("outer_pkg/../../etc", None),
        ("outer_pkg//etc", None),
    ],
)
def test_packages_are_located_and_never_imported(site: Path, location: str, folder: str | None) -> None:
    before = set(sys.modules)
    assert installed_folder(location) == (site / folder if folder is not None else None)
    assert not {"outer_pkg", "outer_pkg.inner", "spaced", "spaced.below", "single"} & (set(sys.modules) - before)


@pytest.mark.parametrize("spec", ["package:outer_pkg.inner/model", "package:spaced.below/model"])
def test_a_model_in_a_package_below_another_is_copied(site: Path, tmp_path: Path, spec: str) -> None:
    ensure(spec, tmp_path / "copy", wanted=("config",))
    assert (tmp_path / "copy" / "config.json").read_text() == "{}"
    with pytest.raises(HubError, match=r"outer_pkg\.absent"):
        ensure("package:outer_pkg.absent/model", tmp_path / "none", wanted=("config",))
    assert "outer_pkg" not in sys.modules


@pytest.mark.parametrize("card", list_models(), ids=lambda card: card.name)
def test_an_absent_model_names_what_can_work(card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flagai download` reaches hubs and web servers, no packages."""
    monkeypatch.setattr("flagai.catalog.packages.package_folder", lambda _: None)
    with pytest.raises(ModelNotFoundError) as found:
        find_model(card.name, tmp_path)
    message = str(found.value)
    fetched = any(place.scheme != "package" for place in card.places())
    assert (f"flagai download {card.name}" in message) == fetched
    assert card.install is None or card.install in message
    assert "Type: " in message or "Put its files there" in message
