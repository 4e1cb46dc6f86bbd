"""True or False that a caller gives, checked: any other value would be taken as true or false in silence."""

from typing import Any

from flagai.errors import InputError


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Args:
        name: the argument's name, for messages.
        value: the argument.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.80}; expected True or False.")
