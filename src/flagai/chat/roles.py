"""ChatGLM3-6B and GLM-4: messages behind special tokens of their roles, with tools."""

import json
from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, ClassVar

from flagai.chat.answers import certain, finished, json_arguments, python_arguments
from flagai.chat.format import ChatFormat
from flagai.chat.messages import Message, Tool, ToolCall, function_of
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError

# The names of a role's token in the tables of special tokens.
_TOKENS = {"system": "system", "user": "user", "assistant": "assistant", "tool": "observation"}
# Tools that these models were trained to call without a description: code, search and pictures.
_TRAINED = frozenset(("interpreter", "python", "simple_browser", "cogview"))


class RolesFormat(ChatFormat):
    """``[gMASK] sop``, each message as role, metadata, line feed and content, and the assistant's token at the end."""

    stops: ClassVar[tuple[str, ...]]
    sampling = {"do_sample": True, "top_p": 0.8, "temperature": 0.8}

    @abstractmethod
    def parts(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[tuple[str, str, str]]:
        """Role, metadata and content of what is written."""

    @abstractmethod
    def arguments(self, text: str) -> dict[str, Any] | None:
        """The arguments of a call, from what the model wrote behind the name."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids of the end and of the roles that speak after the model: ``<|user|>``, ``<|observation|>``."""
        return tuple(self.tokenizer.get_command_id(name) for name in self.stops)

    def lay_out(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of messages: each is a token of its role, then its text."""
        token = self.tokenizer.get_command_id
        ids = [token("gMASK"), token("sop")]
        for role, metadata, content in self.parts(messages, tools):
            head, body = self.tokenizer.encode_ordinary([f"{metadata}\n", content])
            ids += [token(_TOKENS[role]), *head, *body]
        return [*ids, token("assistant")]

    def read(self, ids: list[int], tools: Sequence[Tool], *, done: bool) -> Message:
        """The message that ids are: content, or calls of tools, by the role tokens among them."""
        segments = segments_of(self.tokenizer, ids, self.tokenizer.get_command_id("assistant"))
        return read_segments(segments, tools, self.arguments, done=done)

    def calls(self, message: Message) -> Iterator[tuple[str, str, str]]:
        """The parts of an assistant's message: its content, and each call of a tool."""
        if message.content or not message.tool_calls:
            yield message.role, "" if message.tool_calls else message.metadata, message.content
        for call in message.tool_calls:
            own = message.metadata.strip() == call.name
            yield message.role, message.metadata if own else call.name, call.text or self.written(call)

    def written(self, call: ToolCall) -> str:
        """The arguments of a call as this model writes them."""
        return call.json


def segments_of(
    tokenizer: Tokenizer, ids: list[int], separator: int, silent: Container[int] | None = None
) -> list[str]:
    """The texts of ids between a token, without silent tokens: all special ones, unless they are given."""
    silent = tokenizer.command_ids if silent is None else silent
    rows: list[list[int]] = [[]]
    for number in ids:
        if number == separator:
            rows.append([])
        elif number not in silent:
            rows[-1].append(number)
    return tokenizer.decode_batch(rows)


def read_segments(
    segments: list[str], tools: Sequence[Tool], arguments: Callable[[str], dict[str, Any] | None], *, done: bool
) -> Message:
    """The message that the parts of an answer are.

    The first line of a part names one of the tools, or one that the model was trained to call; else it is content.
    """
    known = {function_of(tool).get("name", tool.get("type")) for tool in tools} | _TRAINED
    contents, calls, metadata = [], [], ""
    for number, segment in enumerate(segments):
        head, line_feed, body = segment.partition("\n")
        name = head.strip()
        called = bool(line_feed) and name in known
        open_ = not done and number == len(segments) - 1
        if open_ and (not line_feed or called):
            continue  # the first line may still become a name, and arguments come as a whole
        if called:
            metadata = head
            calls.append(ToolCall(name, None if name in _TRAINED else arguments(body), body))
        else:
            contents.append(finished(certain(segment) if open_ else segment))
    text = "\n".join(content for content in contents if content)
    return Message("assistant", text, tuple(calls), metadata=metadata)


class ChatGLM3Format(RolesFormat):
    """ChatGLM3-6B: descriptions of tools stand in the system message, and calls are Python."""

    name = "chatglm3"
    stops = ("eos", "user", "observation")
    _TOLD = "Answer the following questions as best as you can. You have access to the following tools:"

    def parts(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[tuple[str, str, str]]:
        """The messages with the descriptions of tools in the system message."""
        if tools and messages[0].role != "system":
            messages = [Message("system", self._TOLD), *messages]
        for number, message in enumerate(messages):
            offered = [*message.tools, *([dict(function_of(tool)) for tool in tools] if number == 0 else [])]
            if offered:
                listed = json.dumps(offered, indent=4, ensure_ascii=False)
                yield message.role, message.metadata, f"{message.content}\n{listed}"
            else:
                yield from self.calls(message)

    def arguments(self, text: str) -> dict[str, Any] | None:
        """The arguments of a call in Python, parsed and never run; None if they are not literals."""
        return python_arguments(text)

    def written(self, call: ToolCall) -> str:
        """A call as the model writes it: ``tool_call(name='value')``."""
        named = ", ".join(f"{name}={value!r}" for name, value in (call.arguments or {}).items())
        return f"```python\ntool_call({named})\n```"


class GLM4Format(RolesFormat):
    """GLM-4-9B: a fixed system text describes functions, and calls are JSON."""

    name = "glm4"
    stops = ("eos", "user", "observation")
    # As in the published tokenizer, "GhatGLM" included: the text that the model is given.
    _TOLD = (
        "你是一个名为 GhatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    )
    _FUNCTION = "\n\n## {}\n\n{}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"

    def parts(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[tuple[str, str, str]]:
        """The messages, with the descriptions of functions behind GLM-4's own system text."""
        for number, message in enumerate(messages):
            if offered := [*message.tools, *(tools if number == 0 else ())]:
                yield "system", "", self._TOLD + "".join(map(self._described, offered))
            if message.content or message.tool_calls:
                yield from self.calls(message)

    def _described(self, tool: Tool) -> str:
        kind, function = tool.get("type", "function"), dict(function_of(tool))
        if kind != "function":
            raise InputError(
                f"The tool {kind!r:.80} is not a function. The format {self.name!r} describes functions only; the "
                "chat_template of newer GLM-4 repositories has this tool."
            )
        return self._FUNCTION.format(function["name"], json.dumps(function, ensure_ascii=False, indent=4))

    def arguments(self, text: str) -> dict[str, Any] | None:
        """The arguments of a call that the model writes as JSON; None if they are not an object."""
        return json_arguments(text)
