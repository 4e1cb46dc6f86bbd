"""The help of the command line in the user's language."""

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from flagai import settings

_HEADINGS = {"Usage": "用法", "Arguments": "参数", "Options": "选项", "Commands": "命令"}


def chinese() -> Mapping[str, str]:
    """The texts of help_zh.toml: English -> Chinese."""
    text = resources.files(__package__).joinpath("help_zh.toml").read_text(encoding="utf-8")
    return {entry["en"]: entry["zh"] for entry in tomllib.loads(text)["text"]}


def translate(command: Any, texts: Mapping[str, str] | None = None) -> None:
    """Put a command's help, and that of its options and subcommands, into Chinese; what has no translation stays.

    Args:
        command: a command or a group, which the next call of the program makes anew.
        texts: English -> Chinese; default :func:`chinese`.
    """
    texts = chinese() if texts is None else texts
    for described in (command, *command.params):
        described.help = texts.get(described.help, described.help)
    for each in getattr(command, "commands", {}).values():
        translate(each, texts)


class Localized:
    """A command or a group whose page of help has its headings in the user's language."""

    def get_help(self, ctx: Any) -> str:
        """The page of help."""
        text: str = super().get_help(ctx)  # type: ignore[misc]
        if settings.is_chinese():
            for english, own in _HEADINGS.items():
                text = re.sub(rf"^{english}:", f"{own}：", text, flags=re.MULTILINE)
        return text

    def get_help_option(self, ctx: Any) -> Any:
        """The option ``--help``."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None and settings.is_chinese():
            option.help = chinese().get(option.help, option.help)
        return option
