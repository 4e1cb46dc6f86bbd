"""ChatGLM-6B's rules around SentencePiece: line feeds, tabs and runs of spaces are pieces of their own."""

import re
from collections.abc import Sequence
from typing import Any

_SPACES = re.compile(r"\n|\t| {2,80}")
_PIECES = re.compile(r"<n>|<\|tab\|>|<\|blank_(\d{1,2})\|>")
_NAMES = {"\n": "<n>", "\t": "<|tab|>"}
_CHARACTERS = {name: character for character, name in _NAMES.items()}


class IceProcessor:
    """A SentencePiece model that reads and writes texts with the pieces of icetk; its methods are SentencePiece's.

    Args:
        processor: the model ``ice_text.model``.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        for name in ("get_piece_size", "id_to_piece", "piece_to_id", "is_byte"):
            setattr(self, name, getattr(processor, name))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._processor,)

    def encode(self, texts: Any, out_type: Any = int) -> Any:
        """The ids or pieces of a text, or of each of a list."""
        named = _named(texts) if isinstance(texts, str) else list(map(_named, texts))
        return self._processor.encode(named, out_type=out_type)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return _PIECES.sub(_character, self._processor.decode(ids))

    def normalize(self, text: str, with_offsets: bool = False) -> Any:
        """A text as its pieces spell it; with offsets, the place in the text of each of its characters, and the end."""
        if not with_offsets:
            return self._processor.normalize(_named(text))
        normal, starts = self._processor.normalize(_named(text), with_offsets=True)
        origins = _origins(text)
        return normal, [origins[start] for start in starts]


def _named(text: str) -> str:
    return _SPACES.sub(lambda found: _name(found[0]), text)


def _name(spaces: str) -> str:
    return _NAMES.get(spaces, f"<|blank_{len(spaces)}|>")


def _character(found: re.Match[str]) -> str:
    return _CHARACTERS.get(found[0]) or " " * int(found[1])


def _origins(text: str) -> list[int]:
    """For each character of a text with named pieces, and for its end, the place in the text itself."""
    origins: list[int] = []
    end = 0
    for found in _SPACES.finditer(text):
        origins += range(end, found.start())
        origins += [found.start()] * len(_name(found[0]))
        end = found.end()
    return [*origins, *range(end, len(text) + 1)]
