"""What a tokenizer makes of a text."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

Offset = tuple[int, int]  # start and end (exclusive), in characters


class Surface(NamedTuple):
    """Where tokens come from."""

    tokens: list[str]
    offsets: list[Offset]  # of each token, in the original text


class Encoding:
    """The ids of a text; its surface (tokens and their offsets) is worked out when it is asked for."""

    def __init__(self, ids: list[int], surface: Surface | Callable[[], Surface]) -> None:
        self.ids = ids
        self._surface = surface

    @property
    def tokens(self) -> list[str]:
        """The pieces of the vocabulary."""
        return self._known.tokens

    @property
    def offsets(self) -> list[Offset]:
        """Start and end (exclusive) of every token, in characters of the original text."""
        return self._known.offsets

    @cached_property
    def _known(self) -> Surface:
        return self._surface if isinstance(self._surface, Surface) else self._surface()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Encoding(ids={self.ids}, tokens={self.tokens}, offsets={self.offsets})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and (self.ids, self._known) == (other.ids, other._known)

    __hash__ = None  # type: ignore[assignment]  # ids is a list

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ids, self._known)
