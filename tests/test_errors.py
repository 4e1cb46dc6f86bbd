"""Messages are safe on a terminal, whatever a server or a file put into them."""

import pytest

from flagai import errors
from flagai.errors import FlagAIError, quoted

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FlagAIError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_message_controls_the_terminal(kind: type[FlagAIError]) -> None:
    text = str(kind("one\n\ttwo \x1b[31mred\x07 \x9b1m \u202eback \ud800 三"))
    assert text == "one\n\ttwo \\x1b[31mred\\x07 \\x9b1m \\u202eback \\ud800 三"
    text.encode()


def test_text_of_a_server_is_one_short_line() -> None:
    assert quoted("not\nfound\r\n\x1b]0;title\x07") == "not found \\x1b]0;title\\x07"
    assert len(quoted("x" * 10_000)) == 200
    assert quoted(["a", 1]) == "['a', 1]"
