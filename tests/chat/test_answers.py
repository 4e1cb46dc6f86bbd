"""What becomes of an answer's text; nothing that a model writes is carried out."""

import pytest

from flagai.chat.answers import certain, finished, json_arguments, python_arguments, widened


def fenced(code):
    return f"\n```python\n{code}\n```"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("tool_call(city='北京', days=-3)", {"city": "北京", "days": -3}),
        ("tool_call(a=[1, (2.5, None)], b={'c': True})", {"a": [1, [2.5, None]], "b": {"c": True}}),
        ("tool_call(\n    symbol='a\\nb'\n)", {"symbol": "a\nb"}),
        ("tool_call()", {}),
    ],
)
def test_literals_by_name_are_arguments(code, arguments):
    assert python_arguments(fenced(code)) == python_arguments(code) == arguments


@pytest.mark.parametrize(
    "code",
    [
        "tool_call(city=__import__('os').system('touch hostile'))",
        "tool_call(**__import__('os').environ)",
        "tool_call('北京')",
        "__import__('os').system('touch hostile')",
        "tool_call(a=open('hostile', 'w'))",
        "tool_call(a=f'{open}')",
        "tool_call(a=(lambda: 1)())",
        "tool_call(a=[x for x in (1,)])",
        "tool_call(a=9**9**9)",
        "tool_call(a=1e999)",
        "tool_call(a={1: 2})",
        "tool_call(a=b'x')",
        "tool_call(a=1, a=2)",
        "tool_call(a=" + "9" * 9999 + ")",
        "tool_call(a=" + "(" * 9999 + ")" * 9999 + ")",
        "tool_call(a=" + "-" * 9999 + "1)",
        "tool_call(a='" + "x" * 99999 + "')",
        "tool_call(a=1); import os",
        "other(a=1)",
        "tool_call(a=1).x",
        "tool_call(a='\x00')",
        "not python",
        "",
    ],
)
def test_anything_else_is_none(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert python_arguments(fenced(code)) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[1]", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1} x', "[" * 9999, "1"])
def test_only_a_json_object_is_arguments(text):
    assert json_arguments(text) is None


def test_json_may_be_fenced():
    assert json_arguments('```json\n{"a": "北"}\n```') == json_arguments('\n{"a": "北"} ') == {"a": "北"}


def test_punctuation_beside_chinese_is_full_width():
    assert widened("好,a,b:好!?好;") == "好，a,b：好！？好；"
    assert finished(" 今天是[[训练时间]]。\n") == "今天是2023年。"


def test_what_may_still_change_waits():
    assert certain("今天是[[训练") == "今天是"
    assert certain("今天 \ufffd") == "今天"
    assert certain("你好,") == "你好,"
    assert certain("你好,", widens=True) == "你好"
