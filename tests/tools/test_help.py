"""The help of the command line in English and Chinese."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flagai.cli import app
from flagai.cli.translation import chinese

LEAST_TRANSLATED = 0.9  # what a command gets meanwhile stays English until it is translated


def helps(command: Any) -> Iterator[str]:
    """The texts of a command, its options and its subcommands."""
    yield from (each.help for each in (command, *command.params) if each.help)
    for each in getattr(command, "commands", {}).values():
        yield from helps(each)


def shown(monkeypatch: pytest.MonkeyPatch, language: str, *arguments: str) -> str:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", language)
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0
    return result.output


def test_help_is_in_the_users_language(monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(monkeypatch, "zh_CN.UTF-8", "poem")
    assert "为每个题目写一首古诗" in page
    assert "随机种子" in page
    assert "用法：" in page
    assert "显示帮助并退出" in page
    assert "为每条文本生成标题" in shown(monkeypatch, "zh_CN.UTF-8")
    assert "列出已下载的模型" in shown(monkeypatch, "zh_CN.UTF-8", "cache")
    assert "Generate a classical Chinese poem" in shown(monkeypatch, "en_US.UTF-8", "poem")
    assert "Usage: " in shown(monkeypatch, "C", "poem")


def test_variables_are_asked_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "Usage: " in CliRunner().invoke(app, ["poem", "--help"]).output


def test_translations_are_of_texts_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    texts = set(helps(typer.main.get_command(app))) | {"Show this message and exit."}
    assert len(chinese().keys() - texts) <= (1 - LEAST_TRANSLATED) * len(texts)
    untranslated = texts - chinese().keys()
    assert len(untranslated) <= (1 - LEAST_TRANSLATED) * len(texts), untranslated
    assert all(
        any("\u4e00" <= sign <= "\u9fff" for sign in text)
        for text in chinese().values()
        if "crf" not in text and "masklm" not in text
    )
