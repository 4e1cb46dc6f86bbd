"""A vocabulary as poems see it: the characters of each token, and which tokens fit where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from flagai.data.prepare.poem import PoemForm
from flagai.errors import InputError
from flagai.poetry.verse import ANY, COMMA, EITHER, LEVEL, OBLIQUE, PERIOD, RHYME, Form, PoemData, is_chinese

# What may stand at a place; nothing behind the end.
_PLACES = ("", COMMA, PERIOD, LEVEL, OBLIQUE, EITHER, RHYME, ANY)
# A longer token is never written.
_LONGEST = 4
# A vocabulary with fewer characters of a tone could get stuck in the longest poem.
_FEWEST = 100
_MARKS = {COMMA: COMMA, ",": COMMA, PERIOD: PERIOD}
_FITTING = {
    LEVEL: (LEVEL, EITHER, ANY),
    OBLIQUE: (OBLIQUE, EITHER, ANY),
    EITHER: (LEVEL, OBLIQUE, EITHER, ANY),
    COMMA: (COMMA,),
    PERIOD: (PERIOD,),
}


@dataclass(frozen=True)
class VerseTables:
    """Tensors over tokens (V, up to L characters each), characters (C; 0 is none), forms (F), patterns (K), places (P).

    Args:
        characters: of tokens, [V, L].
        counts: how many these are, [V].
        starts: tokens that may only begin an answer, such as a blank, [V].
        ends: tokens that end an answer, [V].
        is_mark: which characters are punctuation, [C].
        fits: which characters may stand at a kind of place, [kinds, C].
        rhymes: the rhymes of characters, as bits, [C].
        sizes: how many characters each rhyme has, [R].
        places: kinds of places, and 0 behind the end, [F, K, P + L].
        lengths: of poems, [F].
        windows: which row of ``masks`` holds for a place, [F, K, P + 1].
        masks: which tokens fit, by the kinds of the next L places, [windows, V].
        rhyme_in: how many places ahead the next rhyme is, L if farther, [F, K, P + 1].
        rhyme_places: whether a place is one for a rhyme, [F, K, P + L].
        limits: uses, again and doubled, [F, 3].
    """

    characters: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    is_mark: torch.Tensor
    fits: torch.Tensor
    rhymes: torch.Tensor
    sizes: torch.Tensor
    places: torch.Tensor
    lengths: torch.Tensor
    windows: torch.Tensor
    masks: torch.Tensor
    rhyme_in: torch.Tensor
    rhyme_places: torch.Tensor
    limits: torch.Tensor

    def to(self, device: torch.device) -> Self:
        """The tables on a device."""
        return type(self)(**{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})

    @classmethod
    def of(cls, tokens: Sequence[bytes], ends: Sequence[int], data: PoemData, *, strict: bool) -> Self:
        """The tables of a vocabulary.

        Args:
            tokens: what each token writes.
            ends: tokens that end an answer.
            data: the rules.
            strict: with tones and rhymes.

        Raises:
            InputError: the vocabulary lacks what a poem needs.
        """
        index, characters, counts, starts = _characters(tokens)
        is_end = torch.zeros(len(tokens), dtype=torch.bool)
        is_end[list(ends)] = True
        own: dict[str, Any] = _kinds_of_characters(index, counts, characters, data)
        own |= _layout([data.forms[form] for form in PoemForm], characters.shape[1], strict=strict)
        alone = own["fits"][:, characters[counts == 1, 0].unique()].sum(1)
        for kind in own["places"].unique().tolist():
            if kind and alone[kind] < (1 if _PLACES[kind] in _MARKS else _FEWEST):
                raise InputError(
                    f"The vocabulary has {int(alone[kind])} characters for places of the kind {_PLACES[kind]!r}, too "
                    "few for poems. Write without rules, by Predictor.write, or with another model."
                )
        own |= _masks(own["places"], own["fits"], characters, counts.masked_fill(is_end, 0))
        return cls(characters=characters, counts=counts, starts=starts, ends=is_end, **own)


def _characters(tokens: Sequence[bytes]) -> tuple[dict[str, int], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The number of each character; characters, counts and starts of tokens."""
    index: dict[str, int] = {}
    rows: list[list[int]] = []
    marks = _MARKS if COMMA.encode() not in tokens else {COMMA: COMMA, PERIOD: PERIOD}
    starts = torch.zeros(len(tokens), dtype=torch.bool)
    for number, token in enumerate(tokens):
        text = token.decode(errors="replace")
        bare = text.removeprefix(" ")
        starts[number] = bare != text
        marked = "".join(marks.get(character, character) for character in bare)
        fits = len(marked) <= _LONGEST and all(char in marks or is_chinese(char) for char in marked)
        rows.append([index.setdefault(char, len(index) + 1) for char in marked] if fits else [])
        starts[number] &= fits
    longest = max(map(len, rows), default=0) or 1
    table = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return index, table, torch.tensor([len(row) for row in rows]), starts


def _kinds_of_characters(
    index: Mapping[str, int], counts: torch.Tensor, characters: torch.Tensor, data: PoemData
) -> dict[str, torch.Tensor]:
    """Tensors over characters."""
    size = len(index) + 1
    fits = torch.zeros(len(_PLACES), size, dtype=torch.bool)
    rhymes = torch.zeros(size, dtype=torch.long)
    is_mark = torch.zeros(size, dtype=torch.bool)
    alone = set(characters[counts == 1, 0].tolist())
    for character, number in index.items():
        tone = character if character in _MARKS else data.tones.get(character, "")
        kinds = _FITTING.get(tone, (ANY,))
        fits[[_PLACES.index(kind) for kind in kinds], number] = True
        is_mark[number] = character in _MARKS
        if tone in (LEVEL, EITHER) and number in alone:
            rhymes[number] = sum(1 << bit for bit, own in enumerate(data.rhymes.values()) if character in own)
    fits[_PLACES.index(RHYME)] = rhymes != 0
    bits = torch.arange(len(data.rhymes))
    return {"fits": fits, "rhymes": rhymes, "is_mark": is_mark, "sizes": (rhymes[:, None] >> bits & 1).sum(0)}


def _layout(forms: Sequence[Form], ahead: int, *, strict: bool) -> dict[str, torch.Tensor]:
    """Tensors over forms, patterns and places."""
    patterns = [form.patterns(strict=strict) for form in forms]
    length = max(len(own[0]) for own in patterns)
    places = torch.tensor(
        [
            [[_PLACES.index(place) for place in own] + [0] * (length + ahead - len(own)) for own in rows]
            for rows in patterns
        ]
    )
    rhyme = places == _PLACES.index(RHYME)
    windows = rhyme.unfold(-1, ahead, 1)
    first = torch.where(windows.any(-1), windows.int().argmax(-1), ahead)
    return {
        "places": places,
        "lengths": torch.tensor([len(own[0]) for own in patterns]),
        "rhyme_places": rhyme,
        "rhyme_in": first,
        "limits": torch.tensor([[form.uses, form.again, form.doubled] for form in forms]),
    }


def _masks(
    places: torch.Tensor, fits: torch.Tensor, characters: torch.Tensor, counts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Which tokens fit into each sequence of places that occurs."""
    ahead = characters.shape[1]
    kinds, windows = places.unfold(-1, ahead, 1).flatten(0, 2).unique(dim=0, return_inverse=True)
    masks = (counts > 0).expand(len(kinds), -1).clone()
    for step in range(ahead):
        masks &= fits[kinds[:, step]][:, characters[:, step]] | (counts <= step)
    return {"masks": masks, "windows": windows.view(*places.shape[:2], -1)}
