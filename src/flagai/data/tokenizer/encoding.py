"""What a tokenizer makes of a text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

Offset = tuple[int, int]  # start and end (exclusive), in characters


@dataclass(frozen=True)
class Surface:
    """Where tokens come from."""

    tokens: list[str]  # the pieces of the vocabulary
    offsets: list[Offset]  # for each of them, start and end (exclusive) in characters of the original text


class Encoding:
    """The ids of a text; its tokens and their offsets are worked out when they are asked for.

    Args:
        ids: the token ids.
        surface: gives tokens and offsets.
    """

    def __init__(self, ids: list[int], surface: Callable[[], Surface]) -> None:
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
        return self._surface()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Encoding(ids={self.ids}, tokens={self.tokens}, offsets={self.offsets})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and (self.ids, self._known) == (other.ids, other._known)

    __hash__ = None  # type: ignore[assignment]  # ids is a list

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return type(self).of, (self.ids, self._known)

    @classmethod
    def of(cls, ids: list[int], surface: Surface) -> Self:
        """An encoding of which everything is known already."""
        return cls(ids, lambda: surface)
