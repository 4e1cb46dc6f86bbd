"""Conversations: messages to token ids, and a model's answers back to messages, as each generation was trained."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.chat.choosing import chat_format as chat_format
    from flagai.chat.format import ChatFormat as ChatFormat
    from flagai.chat.messages import Message as Message
    from flagai.chat.messages import ToolCall as ToolCall
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.chat.choosing": "chat_format",
            "flagai.chat.format": "ChatFormat",
            "flagai.chat.messages": "Message ToolCall",
        },
    )
