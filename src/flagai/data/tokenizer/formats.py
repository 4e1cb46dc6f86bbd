"""What ``encode_plus`` returns: the ids of one text or two, with the command tokens of the model's family."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from flagai.errors import InputError

_Token = TypeVar("_Token")


class Slot(NamedTuple):
    """A place of a frame."""

    number: int | None  # the id of a special token; None where a text stands
    kind: int = 0  # the token type
    part: int = 0  # which text stands here, 0 or 1


class Frame(NamedTuple):
    """The special tokens around one text, or around two, and the places of the texts, in order."""

    slots: tuple[Slot, ...]

    @property
    def specials(self) -> int:
        """How many special tokens there are."""
        return sum(slot.number is not None for slot in self.slots)

    @property
    def surrounds(self) -> bool:
        """Whether it is one special token, one text and one special token."""
        return [slot.number is None for slot in self.slots] == [False, True, False]

    @property
    def untyped(self) -> "Frame":
        """The same with the token type 0 everywhere, for models that read none."""
        return Frame(tuple(slot._replace(kind=0) for slot in self.slots))

    def ids(self, parts: Sequence[Sequence[int]]) -> list[int]:
        """The ids of the texts with the special tokens."""
        return self.laid(parts, int)

    def types(self, parts: Sequence[Sequence[Any]]) -> list[int]:
        """The token type of every id."""
        lengths = [1 if slot.number is not None else len(parts[slot.part]) for slot in self.slots]
        return [slot.kind for slot, length in zip(self.slots, lengths, strict=True) for _ in range(length)]

    def laid(self, parts: Sequence[Sequence[_Token]], special: Callable[[int], _Token]) -> list[_Token]:
        """The tokens of the texts with the special ones, of which ``special`` makes tokens by their ids."""
        found: list[_Token] = []
        for slot in self.slots:
            found += parts[slot.part] if slot.number is None else [special(slot.number)]
        return found


_FIRST, _SECOND = Slot(None, 0, 0), Slot(None, 0, 1)
Frames = tuple[Frame, Frame]


def with_ends(cls: int, sep: int) -> Frames:
    """BERT: ``[CLS] a [SEP]`` and ``[CLS] a [SEP] b [SEP]``, with types 0 and 1."""
    alone = (Slot(cls), _FIRST, Slot(sep))
    return Frame(alone), Frame((*alone, Slot(None, 1, 1), Slot(sep, 1)))


def with_eos(eos: int) -> Frames:
    """T5: ``a </s>`` and ``a </s> b </s>``."""
    alone = (_FIRST, Slot(eos))
    return Frame(alone), Frame((*alone, _SECOND, Slot(eos)))


def plain(eos: int | None) -> Frames:
    """GPT-2: the text alone, and two with ``<|endoftext|>`` between."""
    between = () if eos is None else (Slot(eos),)
    return Frame((_FIRST,)), Frame((_FIRST, *between, _SECOND))


def chatglm(table: str, find: Callable[[str], int]) -> Frames:
    """ChatGLM-6B: ``a [gMASK] <sop>`` and ``a [gMASK] <sop> b <eop>``; later generations begin with these two."""
    start = (Slot(find("gMASK")), Slot(find("sop")))
    if table == "chatglm":
        return Frame((_FIRST, *start)), Frame((_FIRST, *start, Slot(None, 0, 1), Slot(find("eop"))))
    return Frame((*start, _FIRST)), Frame((*start, _FIRST, Slot(None, 0, 1), Slot(find("eos"))))


def causal_glm(
    find: Callable[[str], int], rows: Sequence[list[int]], max_length: int | None, side: str, *, padding: bool
) -> dict[str, Any]:
    """GLM as FlagAI trains titles and poems: ``<|startofpiece|> source [SEP] target``, read causally.

    Of ``max_length`` tokens the target gets what the source leaves. With ``padding`` a target is filled up to it, as
    FlagAI does: before <|endofpiece|>. ``attention_mask`` is GLM's separator: 0 means that all is causal.
    """
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length={max_length} leaves no room for the 2 command tokens. Give a larger one.")
    source, target = rows[0], rows[1] if len(rows) == 2 else None
    if max_length is not None:
        source = cut(source, max_length - 2, side)
        target = None if target is None else cut(target, max_length - 2 - len(source), side)
    head = [find("sop"), *source, find("sep")]
    tail: list[int] = []
    if target is not None:
        limit = len(target) if max_length is None else max_length - len(head)
        tail = [*target, *([find("pad")] * (limit - len(target)) if padding else []), find("eop")]
    ids = head + tail
    length = len(ids) - (target is not None)
    sample: dict[str, Any] = {
        "input_ids": ids[:length],
        "attention_mask": 0,
        "position_ids": [list(range(length)), [0] * length],
        "loss_mask": ([0] * len(head) + [1] * len(tail))[:length],
    }
    return sample if target is None else sample | {"target_ids": ids[1:]}


def cut(row: Sequence[_Token], limit: int, side: str) -> list[_Token]:
    """At most ``limit`` ids of a row, dropped on the ``side`` "right" or "left"."""
    return list(row[:limit] if side == "right" else row[max(0, len(row) - limit) :])


def kept_lengths(lengths: Sequence[int], limit: int, *, odd_to_longer: bool = False) -> list[int]:
    """How much of one sequence or two is kept if ids are dropped, one by one, from the longer one.

    If both are cut and ``limit`` is odd, the longer one (of two equally long ones the second) keeps one more with
    ``odd_to_longer``, as in the library ``tokenizers``; else the first does, as in FlagAI.
    """
    if limit < 0:
        raise InputError(f"max_length is by {-limit} too small even for the command tokens. Give a larger one.")
    if sum(lengths) <= limit:
        return list(lengths)
    if len(lengths) == 1:
        return [limit]
    first, second = lengths
    if min(lengths) * 2 <= limit:  # the shorter one is not cut
        return [limit - second, second] if first > second else [first, limit - first]
    less, more = limit // 2, limit - limit // 2
    return [less, more] if odd_to_longer and first <= second else [more, less]


def check_max_length(max_length: int | None, name: str = "max_length", least: int = 1) -> None:
    """Refuse a length that cannot be meant."""
    right = isinstance(max_length, int) and not isinstance(max_length, bool) and max_length >= least
    if max_length is not None and not right:
        raise InputError(f"{name}={max_length!r:.80} is not a number of tokens. Give an integer of at least {least}.")
