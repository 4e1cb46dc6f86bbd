"""Answers of a model, as text: what their authors change in them, and calls of tools as literals."""

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from flagai.chat.messages import json_object

# What the authors' own code replaces in an answer.
_DATE, _YEAR = "[[训练时间]]", "2023年"
_WIDE = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_NARROW = re.compile("(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
# A call of this length is none that a person would want.
_LONGEST_CALL = 1 << 16


def finished(text: str) -> str:
    """An answer without spaces around it, with the date that the model has a placeholder for."""
    return text.strip().replace(_DATE, _YEAR)


def widened(text: str) -> str:
    """ChatGLM-6B's answer, with full-width punctuation beside Chinese characters."""
    return _NARROW.sub(lambda found: _WIDE[found[0]], text)


def certain(text: str, *, widens: bool = False) -> str:
    """What of a text further tokens do not change: half a character, half a placeholder and spaces wait.

    Args:
        text: the text so far.
        widens: whether punctuation waits for its neighbour, see :func:`widened`.
    """
    text = text.rstrip("\ufffd")
    half = next((size for size in range(len(_DATE) - 1, 0, -1) if text.endswith(_DATE[:size])), 0)
    text = text[: len(text) - half].rstrip()
    return text.rstrip("".join(_WIDE)).rstrip() if widens else text


def python_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of ChatGLM3's ``tool_call(name=value, ...)``, in a fence or bare; None if it is anything else.

    The original evaluates this text. Here it is parsed, and only literals by name are understood.
    """
    fenced = _FENCED.search(text)
    body = (text if fenced is None else fenced[1]).strip()
    if len(body) > _LONGEST_CALL:
        return None
    try:
        call = ast.parse(body, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "tool_call":
            return None
        if call.args or any(each.arg is None for each in call.keywords):
            return None
        found = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        return {name: _plain(value) for name, value in found.items()} if len(found) == len(call.keywords) else None
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def json_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a call in JSON, in a fence or bare; None if it is anything else."""
    fenced = _FENCED.search(text)
    body = (text if fenced is None else fenced[1]).strip()
    return None if len(body) > _LONGEST_CALL else json_object(body)


def _plain(value: Any) -> Any:
    """A literal as JSON knows it.

    Raises:
        ValueError: JSON has no such value.
    """
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("JSON's names are texts")
        return {name: _plain(entry) for name, entry in value.items()}
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("JSON has no such value")
