"""``flagai download``, ``verify`` and ``cache`` as a user types them."""

import itertools
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from flagai.cli import app as everything
from flagai.cli import hub as commands
from flagai.errors import HubError
from flagai.hub import ensure, progress
from flagai.hub.store import remove_downloaded
from tests.hub.conftest import FILES, contents
from tests.hub.server import Hub

app = typer.Typer()
app.command()(commands.download)
app.command()(commands.verify)
app.add_typer(commands.cache, name="cache")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_life_of_a_download(hub: Hub, tmp_path: Path) -> None:
    dry = run("download", "hf:owner/glm", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "missing        1.3 MB  pytorch_model.bin" in dry.output
    assert "1.3 MB from hf:owner/glm to " in dry.output
    home = tmp_path / "home"
    assert not home.exists()

    assert run("download", "hf:owner/glm").output.strip() == str(home / "owner/glm")
    assert contents(home / "owner/glm") == FILES
    assert "nothing to fetch" in run("download", "hf:owner/glm", "--dry-run").output
    assert "owner/glm  (hf:owner/glm)" in run("cache", "list").output
    assert run("verify", "owner/glm").exit_code == 0

    (home / "owner/glm" / "vocab.txt").write_bytes(FILES["vocab.txt"].replace(b"U", b"V"))
    (home / "owner/glm" / "mine.txt").write_text("mine")
    sick = run("verify", "owner/glm")
    assert sick.exit_code == 1
    assert "bad vocab.txt has another content" in sick.output
    assert run("download", "hf:owner/glm", "--force").exit_code == 0
    assert run("verify", "owner/glm").exit_code == 0

    removed = run("cache", "remove", "owner/glm", "--yes")
    assert "mine.txt" in removed.output
    assert contents(home / "owner/glm") == {"mine.txt": b"mine"}


def test_a_catalogued_name_in_any_case(hub: Hub, tmp_path: Path) -> None:
    result = run("download", "glm-LARGE-ch", "--path", tmp_path)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "GLM-large-ch") == FILES


def test_another_source_of_a_name(hub: Hub, tmp_path: Path) -> None:
    result = run("download", "GLM-large-ch", "--path", tmp_path, "--source", "modelscope:owner/glm")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "GLM-large-ch") == FILES
    assert hub.requests("/api/search") == []


def test_what_was_edited_is_not_removed(hub: Hub, tmp_path: Path) -> None:
    folder = ensure("hf:owner/glm", tmp_path / "glm")
    (folder / "config.json").write_text("{}")
    left = remove_downloaded(folder)
    assert left == ["config.json"]
    assert not (folder / "pytorch_model.bin").exists()


def test_what_was_not_downloaded_is_not_removed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = run("cache", "remove", "mine", "--path", tmp_path, "--yes")
    assert "not downloaded by flagai" in str(result.exception)
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("name", ["hf:", "hf:../..", "nothing"])
def test_a_name_that_means_nothing(hub: Hub, tmp_path: Path, name: str) -> None:
    assert run("download", name, "--path", tmp_path / "home").exit_code == 1
    assert not (tmp_path / "home").exists()


def test_cards_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "mine.toml").write_text('["Mine"]\nlike = "bert-base-uncased"\nsources = ["hf:owner/glm"]\n')
    assert "no model 'mine'" in str(run("download", "mine").exception)
    assert run("download", "mine", "--cards", cards).output.strip() == str(tmp_path / "home" / "Mine")
    assert run("verify", "MINE", "--cards", cards).exit_code == 0
    assert run("cache", "remove", "MINE", "--cards", cards, "--yes").exit_code == 0
    assert not (tmp_path / "home" / "Mine").exists()


@pytest.mark.torch
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(("command", "text"), [("fill", "床前[MASK]月光"), ("write", "春眠")])
def test_a_default_that_cannot_be_had_is_replaced_by_what_ships(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, command: str, text: str, offline: bool
) -> None:
    hub.models = {}
    monkeypatch.setenv("FLAGAI_OFFLINE", str(int(offline)))
    result = CliRunner().invoke(everything, [command, text, "--max-length", "4"])
    assert result.exit_code == 0, result.exception
    assert "cannot be fetched" in result.stderr
    assert "using GLM-mini-ch, which ships with flagai" in result.stderr
    assert result.stdout.strip()
    asked = CliRunner().invoke(everything, [command, text, "--model", "GLM-large-ch"])
    assert isinstance(asked.exception, HubError)  # a model that somebody names is not exchanged
    assert "Without a download: GLM-mini-ch" in str(asked.exception)


@pytest.mark.torch
@pytest.mark.parametrize("command", ["ner", "classify"])
def test_no_model_is_offered_that_cannot_do_the_task(hub: Hub, command: str) -> None:
    hub.models = {}
    asked = CliRunner().invoke(everything, [command, "春眠", "--model", "RoBERTa-base-ch"])
    assert isinstance(asked.exception, HubError)
    assert "Without a download" not in str(asked.exception)


def test_an_error_of_the_hub_is_printed_once(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)  # as commands do
    result = run("download", "hf:owner/none", "--path", tmp_path)
    assert isinstance(result.exception, HubError)
    said = str(result.exception).replace(hub.url, "")  # whose port may hold the same digits
    assert said.count("404") == 1
    assert "404" not in caplog.text


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(step=4.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO, "flagai.hub.progress")
    with progress.progress("GLM", 6_000_000) as advance:
        for _ in range(6):
            advance(1_000_000)
    assert caplog.messages == [
        "GLM: 3.0 MB of 6.0 MB, 250.0 kB per second",
        "GLM: 6.0 MB of 6.0 MB, 250.0 kB per second",
    ]


def test_commands_show_the_lines_of_progress() -> None:
    code = """
import logging
from flagai.cli.command import configure_logging
configure_logging(False)
logging.getLogger("flagai.hub.progress").info("half of it")
logging.getLogger("flagai.hub.collect").info("details")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "half of it" in said
    assert "details" not in said
