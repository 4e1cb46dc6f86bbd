"""Conversations as callers give them."""

import pytest

from flagai.chat import Message, ToolCall
from flagai.chat.messages import read_messages, read_tools
from flagai.errors import InputError

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, null]}'}}


def test_openai_messages_are_understood():
    found = read_messages(
        [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c", "name": "me"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
            {"role": "tool", "tool_call_id": "1", "content": "d"},
            {"role": "observation", "content": "e", "metadata": ""},
            Message("user", "g"),
        ]
    )
    assert [each.role for each in found] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert found[0].content == "ab"
    assert found[2].tool_calls == (ToolCall("f", {"a": [1, None]}, id="1"),)
    assert read_messages([each.to_dict() for each in found]) == found


def test_arguments_that_are_no_json_stay_text():
    broken = {"name": "f", "arguments": '{"a": '}
    (message,) = read_messages([{"role": "assistant", "tool_calls": [broken]}])
    assert message.tool_calls == (ToolCall("f", None, '{"a": '),)
    assert message.tool_calls[0].json == '{"a": '


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("Hello", "expected a list"),
        ([], "expected a list"),
        ({"role": "user"}, "expected a list"),
        (["Hello"], r"messages\[0\] is 'Hello'"),
        ([{"content": "a"}], "the role is None"),
        ([{"role": "robot", "content": "a"}], "the role is 'robot'"),
        ([{"role": "user", "content": 1}], "content is 1"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'; these models read text"),
        ([{"role": "user", "content": "a", "images": [1]}], "'images', which means nothing"),
        ([{"role": "assistant", "tool_calls": "f"}], "tool_calls is 'f'"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "not a call of a tool"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}], "arguments of a call"),
    ],
)
def test_what_cannot_be_meant_is_refused(messages, told):
    with pytest.raises(InputError, match=told):
        read_messages(messages)


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, [1], [{"function": {}}]])
def test_tools_need_names(tools):
    with pytest.raises(InputError, match="tools"):
        read_tools(tools)
