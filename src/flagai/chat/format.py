"""``ChatFormat``: what every way to write a conversation has in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from flagai.chat.messages import Message, Tool, read_messages, read_tools
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError


class ChatFormat(ABC):
    """How a model's conversations become token ids, and its answers messages.

    A special token comes from the format alone: its name in a message is ordinary text.

    Args:
        tokenizer: the model's.
    """

    name: ClassVar[str]  # what `chat_format` calls it
    # What the model's authors sample with, by the names of `Predictor.write`.
    sampling: Mapping[str, Any] = {}
    takes_tools: bool = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""

    @abstractmethod
    def lay_out(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of checked messages and tools; see :meth:`encode`."""

    @abstractmethod
    def read(self, ids: list[int], tools: Sequence[Tool], *, done: bool) -> Message:
        """The message that generated ids are.

        Args:
            ids: the ids so far.
            tools: the tools that the conversation offers.
            done: whether generation has ended; else the message holds only what further ids do not change.
        """

    def encode(
        self, messages: Sequence[Message | Mapping[str, object]], tools: Sequence[Tool] | None = None
    ) -> list[int]:
        """The ids of a conversation, up to where the model's answer begins.

        Args:
            messages: the conversation; the last message is the user's or a tool's.
            tools: descriptions of tools that the model may ask for, as in OpenAI's API.

        Raises:
            InputError: a message cannot be understood, or the model was not trained on such a conversation.
        """
        found, offered = read_messages(messages), read_tools(tools)
        if not self.takes_tools and (offered or any(each.tools or each.tool_calls for each in found)):
            raise InputError(f"The format {self.name!r} has no tools. Leave them out, or take a model that has.")
        if found[-1].role in ("assistant", "system"):
            raise InputError(f"The last message is the {found[-1].role}'s; expected one that the model answers.")
        return self.lay_out(found, offered)

    def parse(self, ids: Iterable[int], tools: Sequence[Tool] | None = None) -> Message:
        """The message that an answer is.

        Args:
            ids: what the model wrote, without the stop id.
            tools: those that the model was offered.

        Returns:
            A message of the assistant. Nothing that a model writes is carried out: arguments of a tool are literals,
            or stay text.
        """
        return self.read(list(ids), read_tools(tools), done=True)

    def partial(self, ids: Iterable[int], tools: Sequence[Tool] | None = None) -> str:
        """The content of an answer as far as no further id changes it; ``tools`` are those that were offered."""
        return self.read(list(ids), read_tools(tools), done=False).content


def offered_tools(messages: Sequence[Message | Mapping[str, object]], tools: Sequence[Tool] | None) -> tuple[Tool, ...]:
    """The tools that a conversation offers: those given, and those in its messages."""
    return (*read_tools(tools), *(tool for message in read_messages(messages) for tool in message.tools))
