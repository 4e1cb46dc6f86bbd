"""The messages of a conversation: OpenAI's and ChatGLM's dictionaries, checked, as one type."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flagai.errors import InputError
from flagai.typed_json import parse_json, shown

# Other names of roles: OpenAI's and ChatGLM's.
_ROLES = {"developer": "system", "observation": "tool", "function": "tool"}
ROLES = ("system", "user", "assistant", "tool")
# Fields of a message. OpenAI's clients send others, too, which may be empty only.
_FIELDS = frozenset(
    ("role", "content", "name", "metadata", "tools", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")
)
Tool = Mapping[str, object]


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for; nothing here carries it out.

    Args:
        name: the tool.
        arguments: by name; None if what the model wrote are no literals by name, such as code or broken JSON.
        text: what the model wrote in their place.
        id: what the tool's answer names in ``tool_call_id``.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    text: str = ""
    id: str = ""

    @property
    def json(self) -> str:
        """The arguments as JSON, or as the model wrote them if they are None."""
        return self.text if self.arguments is None else json.dumps(self.arguments, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """The call as OpenAI's API writes it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.json}}


@dataclass(frozen=True)
class Message:
    """A message of a conversation.

    Args:
        role: "system", "user", "assistant" or "tool" (ChatGLM's "observation").
        content: its text.
        tool_calls: the calls that an assistant asks for.
        reasoning: what an assistant wrote before its answer, such as GLM-Z1 in ``<think>``.
        metadata: ChatGLM3's and GLM-4's name of the tool, behind the role.
        tools: ChatGLM3's and GLM-4's descriptions of tools in a system message.
        tool_call_id: the call that a tool answers.
    """

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    metadata: str = ""
    tools: tuple[Tool, ...] = field(default=())
    tool_call_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The message as OpenAI's API writes it, without empty fields."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            found["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        named = {"reasoning_content": self.reasoning, "metadata": self.metadata, "tool_call_id": self.tool_call_id}
        found |= {name: value for name, value in named.items() if value}
        return found | ({"tools": list(self.tools)} if self.tools else {})


def read_messages(messages: Sequence[Message | Mapping[str, object]]) -> list[Message]:
    """Check a conversation.

    Args:
        messages: :class:`Message`, or dictionaries as OpenAI's API and ChatGLM have them.

    Raises:
        InputError: there is none, or one cannot be understood; the message has its number and the field.

    Returns:
        The messages, checked.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InputError(
            f"messages is {shown(messages)}; expected a list such as [{{'role': 'user', 'content': 'Hello'}}]."
        )
    return [_read(number, message) for number, message in enumerate(messages)]


def read_tools(tools: Sequence[Tool] | None, place: str = "tools") -> tuple[Tool, ...]:
    """The descriptions of tools, checked: in OpenAI's form, or functions alone.

    Args:
        tools: the descriptions; None for none.
        place: the field's name, for errors.

    Raises:
        InputError: one has no name.
    """
    if tools is None:
        return ()
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise InputError(f"{place} is {shown(tools)}; expected a list of descriptions of tools.")
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping) or not isinstance(function_of(tool).get("name", tool.get("type")), str):
            raise InputError(f"{place}[{number}] is {shown(tool)}; expected a description with the tool's name.")
    return tuple(tools)


def function_of(tool: Tool) -> Mapping[str, Any]:
    """The description of a tool's function, without OpenAI's frame around it."""
    function = tool.get("function")
    return function if isinstance(function, Mapping) else tool


def _read(number: int, message: Any) -> Message:
    place = f"messages[{number}]"
    if isinstance(message, Message):
        if message.role not in ROLES:
            raise InputError(f"{place}: the role is {shown(message.role)}; expected one of {', '.join(ROLES)}.")
        return message
    if not isinstance(message, Mapping):
        raise InputError(f"{place} is {shown(message)}; expected a dictionary with 'role' and 'content'.")
    strange = [name for name, value in message.items() if name not in _FIELDS and value]
    if strange:
        raise InputError(
            f"{place} has {shown(strange[0])}, which means nothing here. Known: {', '.join(sorted(_FIELDS))}."
        )
    role = message.get("role")
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise InputError(f"{place}: the role is {shown(role)}; expected one of {', '.join(ROLES)}.")
    return Message(
        role,
        _content(place, message.get("content")),
        _calls(place, message.get("tool_calls")),
        _text(place, "reasoning_content", message.get("reasoning_content") or message.get("reasoning")),
        _text(place, "metadata", message.get("metadata")),
        read_tools(message.get("tools"), f"{place}, tools"),
        _text(place, "tool_call_id", message.get("tool_call_id")),
    )


def _text(place: str, name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: {name} is {shown(value)}; expected a text.")
    return value or ""


def _content(place: str, value: Any) -> str:
    """A text, or OpenAI's list of parts, all of which must be texts."""
    if not isinstance(value, list | tuple):
        return _text(place, "content", value)
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise InputError(f"{place}: content has a part of the type {shown(kind)}; these models read text only.")
        texts.append(part["text"])
    return "".join(texts)


def _calls(place: str, value: Any) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InputError(f"{place}: tool_calls is {shown(value)}; expected a list.")
    return tuple(call if isinstance(call, ToolCall) else _call(place, call) for call in value)


def _call(place: str, value: Any) -> ToolCall:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"{place}: {shown(value)} is not a call of a tool; expected a function with its name.")
    arguments = function.get("arguments")
    number = _text(place, "id of a call", value.get("id"))
    if not isinstance(arguments, str):
        if arguments is not None and not isinstance(arguments, Mapping):
            raise InputError(f"{place}: the arguments of a call are {shown(arguments)}; expected JSON.")
        return ToolCall(function["name"], dict(arguments or {}), id=number)
    found = json_object(arguments)
    return ToolCall(function["name"], found, arguments if found is None else "", number)


def json_object(text: str) -> dict[str, Any] | None:
    """The object that a text holds as JSON; None if it holds none."""
    try:
        found = parse_json(text, "arguments", InputError)
    except InputError:
        return None
    return found if isinstance(found, dict) else None
