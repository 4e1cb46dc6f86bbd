"""The chat template of a repository, rendered in a sandbox."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from flagai.chat.sandbox import Sandbox
from flagai.errors import InputError, VocabularyError, quoted

_LONGEST_SOURCE = 1 << 20


class TemplateRefusedError(InputError):
    """A chat template does what none needs: it reaches for objects, changes them, or does not end."""


class ChatTemplate:
    """A chat template in Jinja.

    Args:
        source: the template.
        place: where it comes from, for messages.

    Raises:
        VocabularyError: it is not a template, or too long for one.
        TemplateRefusedError: it reads other files.
    """

    def __init__(self, source: str, place: str) -> None:
        self.source, self.place = source, place
        if len(source) > _LONGEST_SOURCE:
            raise VocabularyError(f"{place}: the chat template has more than {_LONGEST_SOURCE:,} characters.")
        try:
            Sandbox().guarded(source)
        except SecurityError as error:
            raise self._refused(error) from error
        except (TemplateError, RecursionError) as error:
            raise VocabularyError(f"{place}: the chat template cannot be read: {quoted(error)}. Repair it.") from error

    def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """The text of a conversation.

        Args:
            messages: the conversation.
            **variables: what else the template may use.

        Raises:
            InputError: the template refuses the conversation.
            TemplateRefusedError: the template does what none needs.
        """
        sandbox = Sandbox()
        try:
            return sandbox.from_string(sandbox.guarded(self.source)).render(messages=messages, **variables)
        except (SecurityError, RecursionError, MemoryError) as error:
            raise self._refused(error) from error
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{self.place}: the chat template says of this conversation: {quoted(error)}.") from error

    def _refused(self, error: BaseException) -> TemplateRefusedError:
        return TemplateRefusedError(f"{self.place}: the chat template is refused: {quoted(error)}.")
