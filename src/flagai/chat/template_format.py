"""Conversations as the chat template of a repository lays them out."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from flagai.chat.answers import certain, finished, json_arguments
from flagai.chat.format import ChatFormat
from flagai.chat.messages import Message, Tool, ToolCall
from flagai.chat.roles import read_segments, segments_of
from flagai.chat.templates import ChatTemplate
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.commands import WITHOUT_LITERALS
from flagai.errors import InputError, VocabularyError

FILE = "chat_template.jinja"
_KEY = "chat_template"
_DEFAULT = "default"
_SAMPLING = ("do_sample", "top_k", "top_p", "temperature", "repetition_penalty")
# Ends of answers in any tokenizer; what opens and closes reasoning, which stays text.
_ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>", "<|im_end|>", "<|eot_id|>")
_ASSISTANT, _OBSERVATION = "<|assistant|>", "<|observation|>"
_OPENS, _CLOSES = "<think>", "</think>"
_PROBE = ({"role": "user", "content": "?"},)


def template_of(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template in a tokenizer's folder; None if it has none.

    Raises:
        VocabularyError: it is not a template.
    """
    saved = tokenizer.description.saved
    path, options = saved.folder / FILE, saved.options
    if path.is_file():
        try:
            return ChatTemplate(path.read_text(encoding="utf-8-sig"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(f"{path} cannot be read: {error}. Download it again.") from error
    found = options.table.get(_KEY)
    if isinstance(found, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, Mapping)}
        found = named.get(_DEFAULT)
    if found is None:
        return None
    if not isinstance(found, str):
        options.fail(_KEY, "is not a template. Download the file again.")
    return ChatTemplate(found, f"{options.place}, {_KEY}")


class TemplateFormat(ChatFormat):
    """A repository's own template."""

    name = "template"

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        super().__init__(tokenizer)
        self.template = template
        self.takes_tools = "tools" in template.source

    @cached_property
    def sampling(self) -> Mapping[str, Any]:  # type: ignore[override]  # read when it is asked for
        """What the folder's generation_config.json says of sampling."""
        stated = self.tokenizer.description.saved.generation
        found = {name: stated.table[name] for name in _SAMPLING if stated.table.get(name) is not None}
        return found if found.get("do_sample") is True else {}

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids of the end of a text and of the vocabulary's ends of turns."""
        commands = self.tokenizer.command_token_map
        found = [self.tokenizer.find_command_id("eos"), *(commands[end].Id for end in _ENDS if end in commands)]
        return tuple(dict.fromkeys(number for number in found if number is not None))

    def lay_out(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of what the repository's template makes of messages and tools."""
        return self.ids_of(*self._protected(messages, tools))

    def ids_of(self, text: str, spelled: Mapping[str, str]) -> list[int]:
        """The ids of a text in which stand-ins are spelled: its special tokens are the template's."""
        commands = self.tokenizer.command_token_map
        if not spelled and self.tokenizer.description.table not in WITHOUT_LITERALS:
            return self.tokenizer.encode(text)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, sorted(commands, key=len)[::-1]))})", text):
            if part in commands:
                ids.append(commands[part].Id)
                continue
            for stand_in, special in spelled.items():
                part = part.replace(stand_in, special)
            ids += self.tokenizer.encode_ordinary([part])[0]
        return ids

    def _protected(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, dict[str, str]]:
        """The conversation's text, in which each special token of a message has a stand-in."""
        fields: Any = {"messages": [_as_template_reads(each) for each in messages], "tools": list(tools) or None}
        written = repr(fields)
        names = {
            token for token in self.tokenizer.command_token_map if token in written and token not in (_OPENS, _CLOSES)
        }
        salt = secrets.token_hex(8)  # a message cannot guess it
        stand_ins = {token: f"\ue000{salt}{number}\ue001" for number, token in enumerate(sorted(names, key=len)[::-1])}
        fields = _with_stand_ins(fields, stand_ins)
        return self._render(**fields), {stand_in: token for token, stand_in in stand_ins.items()}

    def _render(self, messages: Sequence[Any], tools: Any = None) -> str:
        tokens = self.tokenizer.command_name_map
        special = {f"{name}_token": tokens[name].token for name in ("bos", "eos", "pad", "unk") if name in tokens}
        return self.template.render(messages, tools=tools, add_generation_prompt=True, **special)

    @cached_property
    def _thinks(self) -> bool:
        """Whether the template opens the model's reasoning, as GLM-Z1's."""
        try:
            return self._render(_PROBE).rstrip().endswith(_OPENS)
        except InputError:
            return False

    def read(self, ids: list[int], tools: Sequence[Tool], *, done: bool) -> Message:
        """The message that ids are: content, or calls of tools in the forms that templates ask for."""
        silent = self.tokenizer.command_ids - {self.tokenizer.find_token(token) for token in (_OPENS, _CLOSES)}
        commands = self.tokenizer.command_token_map
        if not {_ASSISTANT, _OBSERVATION} <= commands.keys():
            text = self.tokenizer.decode([number for number in ids if number not in silent])
            text = finished(text if done else certain(text))
            if not done and self.tokenizer.kind == "wordpiece":  # its last word may go on
                text = text.rpartition(" ")[0]
            return self._reasoned(Message("assistant", text), done)
        segments = segments_of(self.tokenizer, ids, commands[_ASSISTANT].Id, silent)
        return self._reasoned(read_segments(segments, tools, json_arguments, done=done), done)

    def _reasoned(self, message: Message, done: bool) -> Message:
        """A message whose reasoning stands by itself."""
        text = message.content
        thinks = self._thinks or text.startswith(_OPENS)
        if not thinks and not (not done and _OPENS.startswith(text)):
            return message
        reasoning, closed, content = text.removeprefix(_OPENS).partition(_CLOSES)
        if not closed and not thinks:
            return replace(message, content="")
        return replace(message, content=content.strip(), reasoning=reasoning.strip())


def _as_template_reads(message: Message) -> dict[str, Any]:
    """A message as templates read it: arguments of calls are objects."""
    found = message.to_dict()
    if message.tool_calls:
        found["tool_calls"] = [_as_object(call) for call in message.tool_calls]
    if message.metadata:
        found["metadata"] = message.metadata
    return found


def _as_object(call: ToolCall) -> dict[str, Any]:
    arguments = call.text if call.arguments is None else dict(call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _with_stand_ins(value: Any, stand_ins: Mapping[str, str]) -> Any:
    if not stand_ins:
        return value
    if isinstance(value, str):
        for token, stand_in in stand_ins.items():
            value = value.replace(token, stand_in)
        return value
    if isinstance(value, Mapping):
        return {_with_stand_ins(name, stand_ins): _with_stand_ins(each, stand_ins) for name, each in value.items()}
    return [_with_stand_ins(each, stand_ins) for each in value] if isinstance(value, list | tuple) else value
