"""SentencePiece: Chinese GLM and T5."""

import re
from collections.abc import Container, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from flagai.data.tokenizer.commands import Commands, TextPart
from flagai.data.tokenizer.encoding import Encoding, Offset, Surface
from flagai.data.tokenizer.text import parted

_SPACE = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_MANY = 64  # from so many texts on, the threads of a batch pay


class SentencePieceEngine:
    """A SentencePiece model with command tokens around it.

    The parts between command tokens are encoded separately, so that each begins a word. Decoding keeps the space of a
    word that follows a command token if it is ``spaced``, as T5 does; GLM's texts are put together as they are.

    Args:
        processor: the model.
        spaced: see above.
        literal: whether command tokens are looked for in texts.
        keeps_spaces: whether texts, and parts between command tokens, that are spaces alone have ids.
    """

    def __init__(self, processor: Any, *, spaced: bool, literal: bool = True, keeps_spaces: bool = False) -> None:
        self._processor = processor
        self._spaced = spaced
        self._literal = literal
        self._keeps_spaces = keeps_spaces
        self.commands = Commands(())
        self.size: int = processor.get_piece_size()

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text."""
        return self._rows([self._parts(text) for text in texts])

    def encode_ordinary(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text, whose command tokens are ordinary text."""
        return [self._processor.encode(text, out_type=int) for text in texts]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The encoding of every text."""
        parts = [self._parts(text) for text in texts]
        return [Encoding(ids, partial(self._surface, row)) for ids, row in zip(self._rows(parts), parts, strict=True)]

    def decode(self, ids: Sequence[int], hidden: Container[int] = ()) -> str:
        """The text of ids, command tokens as they are written, but for those that are hidden."""
        out: list[str] = []
        seam = False  # whether a hidden token stood here
        for is_command, run in groupby(ids, key=self.commands.by_id.__contains__):
            numbers = list(run)
            if is_command:
                shown = [self.commands.by_id[number].token for number in numbers if number not in hidden]
                seam = not shown
                out += shown
                continue
            text: str = self._processor.decode(numbers)
            begins_word = self._processor.id_to_piece(numbers[0]).startswith(_SPACE)
            if out and begins_word and (self._spaced or (seam and text and parted(out[-1], text))):
                out.append(" ")
            out += [text] if text else []
        return "".join(out)

    def token(self, number: int) -> str:
        """The piece of an id; empty if there is none."""
        return str(self._processor.id_to_piece(number)) if number < self.size else ""

    def find(self, token: str) -> int | None:
        """The id of a piece, if it is in the vocabulary."""
        number: int = self._processor.piece_to_id(token)
        return number if self._processor.id_to_piece(number) == token else None

    def vocabulary(self) -> dict[str, int]:
        """All pieces."""
        return {self.token(number): number for number in range(self.size)}

    def normal(self, text: str) -> str:
        """A text as its pieces spell it, without the space that is put before every text."""
        found = str(self._processor.normalize(text)).replace(_SPACE, " ")
        return found if text[:1].isspace() and found.strip() else found.lstrip()

    def _parts(self, text: str) -> list[TextPart]:
        if not self._literal:
            return [TextPart(text, 0)] if text else []
        return list(self.commands.split(text, keeps_spaces=self._keeps_spaces))

    def _rows(self, texts: list[list[TextPart]]) -> list[list[int]]:
        ordinary = [part.text for parts in texts for part in parts if part.command is None]
        encode = partial(self._processor.encode, out_type=int)
        encoded = iter(encode(ordinary) if len(ordinary) >= _MANY else map(encode, ordinary))
        return [
            [number for part in parts for number in (next(encoded) if part.command is None else [part.command.Id])]
            for parts in texts
        ]

    def _surface(self, parts: list[TextPart]) -> Surface:
        tokens: list[str] = []
        offsets: list[Offset] = []
        for part in parts:
            if part.command is not None:
                tokens.append(part.text)
                offsets.append((part.start, part.start + len(part.text)))
                continue
            pieces = self._processor.encode(part.text, out_type=str)
            tokens += pieces
            offsets += [(part.start + start, part.start + end) for start, end in self._spans(part.text, pieces)]
        return Surface(tokens, offsets)

    def _spans(self, text: str, pieces: list[str]) -> list[Offset]:
        """Where the pieces are in the text: they are the normalized text, whose characters know where they come from.

        One character can become several ("½" is "1⁄2"); then a piece ends where the next character begins.
        """
        normal, starts = self._processor.normalize(text, with_offsets=True)
        ends = list(starts)
        for index in reversed(range(len(normal))):
            ends[index] = starts[index + 1] if starts[index + 1] > starts[index] else ends[index + 1]
        if normal.startswith(_SPACE) and starts[1] == starts[0]:
            ends[0] = starts[0]  # the space that is put before every text comes from nowhere
        return [(starts[first], ends[last]) for first, last in self._characters(pieces)]

    def _characters(self, pieces: list[str]) -> Iterator[Offset]:
        """The first and the last character of each piece; several pieces of one byte can be one character."""
        at = bytes_left = 0
        for piece in pieces:
            byte = _BYTE.fullmatch(piece)
            if byte is None or not self._processor.is_byte(self._processor.piece_to_id(piece)):
                yield at, at + len(piece) - 1
                at += len(piece)
                continue
            lead = int(byte[1], 16)
            bytes_left = bytes_left or 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            yield at, at
            bytes_left -= 1
            at += bytes_left == 0
