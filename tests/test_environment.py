"""``flagai env``: what a report of a bug needs, whatever is broken, without secrets."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flagai import environment
from flagai.cli import app
from flagai.settings import VARIABLES

SECTIONS = ["flagai", "system", "torch", "devices", "packages", "extras", "folders", "variables", "notes"]


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["env", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_report_is_one_object_and_the_same_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path / "not" / "made"))
    found: dict[str, Any] = json.loads(told("--json"))
    assert list(found) == SECTIONS
    assert not [section for section, values in found.items() if "error" in values], found
    assert found["folders"]["FLAGAI_HOME"].startswith(f"{tmp_path / 'not' / 'made'}, absent, ")
    assert found["packages"]["numpy"]
    text = told()
    for section in ("system", "torch", "folders"):
        for name in found[section]:
            assert f"  {name}: " in text


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each.name for each in VARIABLES if each.name.endswith(("TOKEN", "KEY"))] + ["ACCELERATE_API_KEY"]:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy:3128")
    monkeypatch.setenv("FLAGAI_BAAI_URL", "https://mirror.example/models?signature=s3cret")
    monkeypatch.setenv("UNRELATED", "s3cret")
    for printed in (told(), told("--json")):
        assert "s3cret" not in printed
        assert "http://***@proxy:3128" in printed
        assert "HF_TOKEN" in printed
        assert "UNRELATED" not in printed


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "torch" else found(name))
    report = json.loads(told("--json"))
    assert report["torch"] == {"version": None}
    assert "not installed" in report["notes"]["torch"]


@pytest.mark.torch
@pytest.mark.skipif(os.name == "nt", reason="asks Linux")
def test_a_driver_that_this_torch_cannot_use_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '550.54, Tesla T4, 15360 MiB, 7.5'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.version, "cuda", None)
    report = json.loads(told("--json"))
    assert report["devices"]["NVIDIA driver"] == "550.54, Tesla T4, 15360 MiB, 7.5"
    assert "this PyTorch is for the CPU" in report["notes"]["torch"]


def test_what_is_broken_is_told_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no such\x1b[31m disk")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    report = json.loads(told("--json"))
    assert report["folders"] == {"error": "OSError: no such\\x1b[31m disk"}
    assert report["system"]["python"]
