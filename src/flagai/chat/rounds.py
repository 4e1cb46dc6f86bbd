"""ChatGLM-6B and ChatGLM2-6B: numbered rounds of a question and an answer, in one text."""

from collections.abc import Sequence
from typing import ClassVar

from flagai.chat.answers import certain, finished, widened
from flagai.chat.format import ChatFormat
from flagai.chat.messages import Message, Tool
from flagai.errors import InputError


class RoundsFormat(ChatFormat):
    """Questions and answers in turn; there are no system messages and no tools."""

    round: ClassVar[str]  # a round up to its answer, with places for its number and the question
    between: ClassVar[str]  # what follows an answer
    first: ClassVar[int]  # the number of the first round
    widens: ClassVar[bool] = False  # whether punctuation beside Chinese becomes full-width
    takes_tools = False

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation as one text.

        Raises:
            InputError: it is not questions and answers in turn.
        """
        wanted = ["user", "assistant"] * len(messages)
        wrong = next((number for number, each in enumerate(messages) if each.role != wanted[number]), None)
        if wrong is not None:
            raise InputError(
                f"messages[{wrong}] is the {messages[wrong].role}'s, but the format {self.name!r} has questions of the "
                "user and answers of the assistant in turn, and nothing else. Put instructions into the first question."
            )
        parts = []
        for number, message in enumerate(messages):
            if message.role == "user":
                parts.append(self.round.format(self.first + number // 2, message.content))
            else:
                parts.append(message.content + self.between)
        return "".join(parts)

    def read(self, ids: list[int], tools: Sequence[Tool], *, done: bool) -> Message:
        """The message that ids are: their text is the content, without calls of tools."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        text = finished(text if done else certain(text, widens=self.widens))
        return Message("assistant", widened(text) if self.widens else text)


class ChatGLMFormat(RoundsFormat):
    """ChatGLM-6B: a first question stands alone; the model answers behind ``[gMASK]<sop>``."""

    name = "chatglm"
    round, between, first = "[Round {}]\n问：{}\n答：", "\n", 0
    widens = True
    sampling = {"do_sample": True, "top_p": 0.7, "temperature": 0.95}

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The id of ``<eop>``."""
        return (self.tokenizer.get_command_id("eop"),)

    def lay_out(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of ``[Round n]`` texts, then ``[gMASK]<sop>``."""
        text = self.text(messages)
        (ids,) = self.tokenizer.encode_ordinary([text if len(messages) > 1 else messages[0].content])
        return [*ids, self.tokenizer.get_command_id("gMASK"), self.tokenizer.get_command_id("sop")]


class ChatGLM2Format(RoundsFormat):
    """ChatGLM2-6B: ``[gMASK] sop`` and all rounds, counted from 1."""

    name = "chatglm2"
    round, between, first = "[Round {}]\n\n问：{}\n\n答：", "\n\n", 1
    sampling = {"do_sample": True, "top_p": 0.8, "temperature": 0.8}

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The id of the end of a text."""
        return (self.tokenizer.get_command_id("eos"),)

    def lay_out(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of ``[gMASK]sop``, then of ``[Round n]`` texts."""
        (ids,) = self.tokenizer.encode_ordinary([self.text(messages)])
        return [self.tokenizer.get_command_id("gMASK"), self.tokenizer.get_command_id("sop"), *ids]
