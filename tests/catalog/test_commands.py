"""``flagai list`` and ``flagai show``, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import flagai
from flagai.catalog.catalog import list_models
from flagai.cli import app
from flagai.errors import CatalogError, ModelNotFoundError
from tests.catalog.test_catalog import MINE


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_list_shows_every_model_on_a_line_of_its_own() -> None:
    lines = run("list").output.splitlines()
    assert len(lines) == len(list_models()) + 1
    assert {line.split()[0] for line in lines[1:]} == {card.name for card in list_models()}


def test_list_filters_and_speaks_json() -> None:
    lines = run("list", "--task", "ner", "--language", "ch", "--family", "BERT", "--json").output.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["RoBERTa-base-ch-ner"]


@pytest.mark.parametrize("task", ["lm", "writing", "masklm", "title", "Poetry_Generation", "fill"])
def test_list_knows_the_tasks_of_list_models(task: str) -> None:
    names = [json.loads(line)["name"] for line in run("list", "--task", task, "--json").output.splitlines()]
    assert names == [info.name for info in flagai.list_models(task)]


def test_list_refuses_unknown_words() -> None:
    assert isinstance(run("list", "--family", "llama").exception, CatalogError)


def test_show_tells_what_one_needs_to_know() -> None:
    shown = " ".join(run("show", "glm-10B-ch").output.split())
    for fact in (
        "GLM-10b-ch",
        "9,879,633,920",
        "19.76 GB in float16",
        "baai:GLM-10b-ch hf:THUDM/glm-10b-chinese",
        "may be called spiece.model",
        "unfixed table",
        "gMASK 50007",
        "never compared",
        "MIT",
    ):
        assert fact in shown


@pytest.mark.torch
@pytest.mark.parametrize("card", list_models(), ids=lambda card: card.name)
def test_show_ends_with_two_lines_of_python(card: object) -> None:
    lines = run("show", card.name).output.splitlines()[-2:]  # type: ignore[attr-defined]
    namespace: dict[str, object] = {}
    exec(lines[0], namespace)
    assert lines[1] == f'model = {lines[0].split()[-1]}.from_pretrain(model_name="{card.name}")'  # type: ignore[attr-defined]
    compile(lines[1], "show", "exec")


def test_show_speaks_json() -> None:
    shown = json.loads(run("show", "THUDM/glm-2b", "--json").output)
    assert (shown["name"], shown["config"]["num_layers"], shown["tokenizer"]["kind"]) == ("GLM-2B", 36, "bpe")


def test_show_offers_near_misses() -> None:
    assert "Did you mean GLM-large-ch" in str(run("show", "GLM-large-chh").exception)
    assert isinstance(run("show", "GLM-large-chh").exception, ModelNotFoundError)


def test_cards_of_the_user_are_shown(tmp_path: Path) -> None:
    # Square brackets mean colours to rich, but not in a card.
    (tmp_path / "mine.toml").write_text(MINE.replace('licence = "MIT"', 'licence = "[bold]MIT"'))
    assert "[bold]MIT" in run("show", "mine", "--cards", str(tmp_path)).output
    assert "My-Model" in run("list", "--cards", str(tmp_path)).output


def test_a_card_does_not_control_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE.replace('licence = "MIT"', 'licence = "\\u001b[31mMIT\\u009b1m"'))
    shown = run("show", "my-model", "--cards", str(tmp_path))
    assert "\\x1b[31mMIT\\x9b1m" in shown.output
    assert not {"\x1b", "\x9b"} & set(shown.output)
