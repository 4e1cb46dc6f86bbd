"""The Predictor's methods for conversations."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Unpack, overload

from flagai.chat.choosing import chat_format
from flagai.chat.format import ChatFormat
from flagai.chat.messages import Message, Tool
from flagai.errors import InputError
from flagai.generation.keywords import GenerationOptions, SamplingOptions
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.chatting import ChatRequest, ChatStream, Chatting, Conversation
from flagai.model.predictor.request_methods import RequestMethods
from flagai.model.predictor.results import Chatted


class ChatMethods(RequestMethods):
    """Adds conversations to the methods that generate text."""

    @cached_property
    def chat_format(self) -> ChatFormat:
        """How the model's conversations are written; set it to :func:`flagai.chat.chat_format` of another name.

        Raises:
            InputError: the model was not trained to chat.
        """
        return chat_format(self.tokenizer)

    @overload
    def chat(
        self,
        messages: Conversation,
        tools: Sequence[Tool] | None = ...,
        **options: Unpack[SamplingOptions],
    ) -> Chatted: ...
    @overload
    def chat(
        self,
        messages: Sequence[list[Message | Mapping[str, object]]],
        tools: Sequence[Tool] | None = ...,
        **options: Unpack[SamplingOptions],
    ) -> list[Chatted]: ...
    @takes_adapter
    def chat(self, messages: Any, tools: Sequence[Tool] | None = None, **options: Any) -> Any:
        """Answer a conversation.

        Args:
            messages: a conversation, as in OpenAI's API (``[{"role": "user", "content": "你好"}]``), or a list of
                conversations. The names of special tokens in them are ordinary text.
            tools: descriptions of tools that the model may ask for.
            **options: as in :meth:`write`. Defaults: ``max_new_tokens`` is 2,048 or what the model has positions for;
                unless another strategy is chosen, the model samples as its authors do.

        Returns:
            The answer; append ``answer.message`` to the conversation to go on. A list for a list.

        Raises:
            InputError: the model was not trained to chat, a message or an option is impossible, or the conversation is
                too long.

        Example:
            >>> predictor.chat([{"role": "user", "content": "你好"}], do_sample=False).content
        """
        several = _are_several(messages)
        chatting = self._chatting()
        asked = chatting.requests(messages if several else [messages], tools, options)
        found = [answers[0] for answers in chatting.answer(asked)]
        return found if several else found[0]

    @takes_adapter
    def chat_stream(
        self,
        messages: Conversation,
        tools: Sequence[Tool] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> ChatStream:
        """Answer a conversation piece by piece.

        Args:
            messages: one conversation; the rest as in :meth:`chat`.
            tools: see :meth:`chat`.
            **options: see :meth:`chat`.

        Returns:
            An iterator over pieces of the content; after the last, ``result`` is the whole answer.

        Raises:
            InputError: see :meth:`chat`.
        """
        (asked,) = self.chat_requests([messages], tools, **options)
        return ChatStream(self.model, asked, self.memory)

    @takes_adapter
    def chat_requests(
        self,
        conversations: Sequence[Conversation],
        tools: Sequence[Tool] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[ChatRequest]:
        """What a :class:`~flagai.generation.Scheduler` takes for conversations; see :meth:`requests`.

        Args:
            conversations: a list of conversations.
            tools: see :meth:`chat`.
            **options: see :meth:`chat`.

        Returns:
            One for each conversation: ``request`` goes to ``submit``; ``certain`` is the content so far, and
            ``answers()`` are the answers.

        Raises:
            InputError: see :meth:`chat`.
        """
        return self._chatting().requests(conversations, tools, {**options})

    def _chatting(self) -> Chatting:
        self._require("write")
        return Chatting(self.generator, self.chat_format)


def _are_several(messages: Any) -> bool:
    """Whether these are conversations, and not the messages of one.

    Raises:
        InputError: it is not a list.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InputError(
            f"messages is {messages!r:.80}; expected a list such as [{{'role': 'user', 'content': 'Hi'}}]."
        )
    return bool(messages) and all(isinstance(each, list | tuple) for each in messages)
