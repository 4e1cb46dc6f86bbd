"""What ``encode_plus`` returns: the ids of one text or two, with the command tokens of the model's family."""

from collections.abc import Callable, Sequence
from typing import Any

from flagai.errors import InputError


def with_ends(cls: int, sep: int, first: list[int], second: list[int] | None) -> dict[str, Any]:
    """BERT: ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``, with types 0 and 1."""
    ids = [cls, *first, sep]
    types = [0] * len(ids)
    if second is not None:
        ids += [*second, sep]
        types += [1] * (len(second) + 1)
    return {"input_ids": ids, "token_type_ids": types}


def with_eos(eos: int, first: list[int], second: list[int] | None) -> dict[str, Any]:
    """T5: ``a </s>`` or ``a </s> b </s>``."""
    ids = [*first, eos] if second is None else [*first, eos, *second, eos]
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def plain(eos: int | None, first: list[int], second: list[int] | None) -> dict[str, Any]:
    """GPT-2: the text alone, or two with ``<|endoftext|>`` between."""
    ids = first if second is None else [*first, *([] if eos is None else [eos]), *second]
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def causal_glm(
    find: Callable[[str], int],
    source: list[int],
    target: list[int] | None,
    max_length: int | None,
    *,
    padding: bool,
) -> dict[str, Any]:
    """GLM as FlagAI trains titles and poems: ``<|startofpiece|> source [SEP] target``, read causally.

    Args:
        find: gives the id of a command token.
        source: ids of the source.
        target: ids of the target, if there is one.
        max_length: the input has at most so many tokens, and with ``padding`` exactly so many if there is a target.
        padding: FlagAI's padding, which stands before <|endofpiece|>; without it that follows the target at once.

    Returns:
        ``attention_mask`` is GLM's separator: 0 means that all is causal.
    """
    head = [find("sop"), *(source if max_length is None else source[: max_length - 2]), find("sep")]
    tail: list[int] = []
    if target is not None:
        room = len(target) if max_length is None else max_length - len(head)
        tail = target[:room]
        if padding:
            tail += [find("pad")] * (room - len(tail))
        tail.append(find("eop"))
    ids = head + tail
    length = len(ids) - (target is not None)
    sample: dict[str, Any] = {
        "input_ids": ids[:length],
        "attention_mask": 0,
        "position_ids": [list(range(length)), [0] * length],
        "loss_mask": ([0] * len(head) + [1] * len(tail))[:length],
    }
    return sample if target is None else sample | {"target_ids": ids[1:]}


def kept_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """How much of one sequence or two is kept if ids are dropped, one by one, from the longer one.

    Args:
        lengths: of one sequence or two; of two equally long ones the second is cut first.
        room: how many ids may stay.

    Raises:
        InputError: there is no room even for the command tokens.
    """
    if room < 0:
        raise InputError(f"max_length is by {-room} too small even for the command tokens. Give a larger one.")
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    if min(lengths) * 2 <= room:  # the shorter one is not cut
        return [room - second, second] if first > second else [first, room - first]
    return [room - room // 2, room // 2]


def check_max_length(max_length: int | None) -> None:
    """Refuse a length that cannot be meant.

    Raises:
        InputError: it is no whole number above 0.
    """
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise InputError(f"max_length={max_length!r} is no number of tokens. Give a whole number above 0.")
