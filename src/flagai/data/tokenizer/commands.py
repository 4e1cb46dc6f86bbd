"""Command tokens: which there are, by kind of tokenizer, and how to find them by name, id or text."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from flagai.errors import InputError, VocabularyError

END, SOP, EOP = "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"
SENTINELS = 100  # T5's <extra_id_0> ... <extra_id_99>
# THUDM's names for two tokens.
_ALIASES = {"ENC": "cls", "MASK": "mask"}


@dataclass(frozen=True)
class CommandToken:
    """A token with a meaning of its own."""

    name: str  # what it is called in the interface, such as "gMASK"
    token: str  # its text, such as "[gMASK]"
    Id: int  # its id; FlagAI spells it so
    lstrip: bool = False  # whether it swallows the spaces before it
    rstrip: bool = False  # whether it swallows the spaces after it
    special: bool = True  # whether decoding can leave it out; tokens that a user added as words are not special


@dataclass(frozen=True)
class CommandSpec:
    """A row of a table of command tokens."""

    name: str  # as in :class:`CommandToken`
    token: str  # as in :class:`CommandToken`
    after: int | None = None  # how far behind the vocabulary its id is; None: it is in the vocabulary
    written: str | None = None  # how it is written in texts, if not as in the vocabulary


def _chinese_glm(g_mask: int, d_block: int) -> tuple[CommandSpec, ...]:
    """The tables of Chinese GLM, which differ in the last rows; the id that follows [UNK]'s is not used."""
    return (
        CommandSpec("pad", END, 0),
        CommandSpec("eos", END, 0),
        CommandSpec("sep", "[SEP]", 1),
        CommandSpec("cls", "[CLS]", 2),
        CommandSpec("mask", "[MASK]", 3),
        CommandSpec("unk", "[UNK]", 4),
        CommandSpec("sop", SOP, 6),
        CommandSpec("eop", EOP, 7),
        CommandSpec("sMASK", "[sMASK]", 8),
        CommandSpec("gMASK", "[gMASK]", g_mask),
        CommandSpec("dBLOCK", "[dBLOCK]", d_block),
    )


# Of two names with one id, the first is what the id decodes to. Source: THUDM/GLM data_utils/tokenization.py.
TABLES: dict[str, tuple[CommandSpec, ...]] = {
    "fixed": _chinese_glm(9, 10),
    "unfixed": _chinese_glm(7, 9),
    "wordpiece": (
        CommandSpec("pad", "[PAD]"),
        CommandSpec("eos", "[PAD]"),
        CommandSpec("cls", "[CLS]"),
        CommandSpec("sep", "[SEP]"),
        CommandSpec("mask", "[MASK]"),
        CommandSpec("unk", "[UNK]"),
        CommandSpec("sop", SOP, 0),
        CommandSpec("eop", EOP, 1),
        CommandSpec("gMASK", "[gMASK]", 2),
        CommandSpec("sMASK", "[sMASK]", 3),
    ),
    "glm-bpe": (
        CommandSpec("pad", END),
        CommandSpec("eos", END),
        CommandSpec("sop", SOP, 0),
        CommandSpec("eop", EOP, 1),
        CommandSpec("cls", "[CLS]", 2),
        CommandSpec("mask", "[MASK]", 3),
        CommandSpec("sep", "[SEP]", 4),
        CommandSpec("unk", "[UNK]", 5),
        CommandSpec("gMASK", "[gMASK]", 6),
        CommandSpec("sMASK", "[sMASK]", 7),
        CommandSpec("dBLOCK", "[dBLOCK]", 8),
    ),
    "glm-roberta": (
        CommandSpec("pad", "</s>", written=END),
        CommandSpec("eos", "</s>", written=END),
        CommandSpec("sep", "</s>", written="[SEP]"),
        CommandSpec("cls", "<s>", written="[CLS]"),
        CommandSpec("mask", "<mask>", written="[MASK]"),
        CommandSpec("unk", "<unk>", written="[UNK]"),
        CommandSpec("sop", SOP, 0),
        CommandSpec("eop", EOP, 1),
    ),
    "gpt2": (CommandSpec("pad", END), CommandSpec("bos", END), CommandSpec("eos", END)),
    "t5": (CommandSpec("pad", "<pad>"), CommandSpec("eos", "</s>"), CommandSpec("unk", "<unk>")),
}
_SWALLOWING = ("mask", "sMASK", "gMASK")
# WordPiece drops spaces anyway, and T5's sentinels stand between words.
_TABLES_WITH_SPACES = ("fixed", "unfixed", "glm-bpe", "glm-roberta")


@dataclass(frozen=True)
class TextPart:
    """A part of a text: a command token, or what stands between two of them."""

    text: str  # the part
    start: int  # where it begins in the whole text
    command: CommandToken | None = None  # the command token, if it is one


class Commands:
    """The command tokens of one tokenizer.

    Args:
        tokens: all of them, in the order of their importance.
    """

    def __init__(self, tokens: Iterable[CommandToken]) -> None:
        self.tokens = tuple(tokens)
        self.by_name = {token.name: token for token in self.tokens}
        self.by_id: dict[int, CommandToken] = {}
        self.by_text: dict[str, CommandToken] = {}
        self.special_ids = frozenset(token.Id for token in self.tokens if token.special)
        for token in self.tokens:
            self.by_id.setdefault(token.Id, token)
            self.by_text.setdefault(token.token, token)
        self._literal = re.compile("|".join(map(re.escape, sorted(self.by_text, key=len, reverse=True))) or r"(?!)")

    @classmethod
    def of_table(
        cls,
        table: str,
        size: int,
        look_up: Callable[[str], int | None],
        place: str,
        sentinels: int = SENTINELS,
    ) -> "Commands":
        """The command tokens of a table.

        Args:
            table: one of ``TABLES``.
            size: how many tokens the vocabulary has.
            look_up: finds the id of a token of the vocabulary.
            place: the vocabulary's file, for errors.
            sentinels: how many sentinels a T5 has.

        Raises:
            VocabularyError: the vocabulary lacks a token.
        """
        rows = TABLES[table]
        if table == "t5" and look_up("▁<extra_id_0>") is None:
            rows += _sentinels(sentinels, listed=look_up("<extra_id_0>") is not None)
        missing = [row.token for row in rows if row.after is None and look_up(row.token) is None]
        if missing:
            raise VocabularyError(
                f"{place} lacks {', '.join(dict.fromkeys(missing))}: it is no vocabulary of the kind {table!r}, or "
                "it is damaged. Fetch it again, or put the model's own file there."
            )
        return cls(_token(row, table, size, look_up) for row in rows)

    def joined(self, tokens: Iterable[CommandToken]) -> "Commands":
        """These and further ones; a further one takes the place of one with the same text."""
        further = {token.token: token for token in tokens}
        own = [replace(token, Id=further[token.token].Id) if token.token in further else token for token in self.tokens]
        known = {token.token for token in own}
        return Commands([*own, *(token for text, token in further.items() if text not in known)])

    def find(self, name: str) -> int | None:
        """The id of a command token, or None if there is none of this name."""
        if not isinstance(name, str):
            raise InputError(f"The name of a command token is {name!r:.80}; expected a text, such as 'cls'.")
        token = self.by_name.get(_ALIASES.get(name, name))
        return None if token is None else token.Id

    def get(self, name: str) -> int:
        """The id of a command token.

        Raises:
            InputError: there is none of this name; the message lists all.
        """
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.by_name, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join([entry for entry in self.by_name if not entry.startswith("extra_id_")])
            raise InputError(f"This tokenizer has no command token {name!r:.80}.{hint} It has: {known or 'none'}.")
        return found

    def split(self, text: str) -> Iterator[TextPart]:
        """Cut a text at its literal command tokens; parts without a visible character are left out."""
        start = 0
        for match in self._literal.finditer(text):
            command = self.by_text[match.group()]
            before = text[start : match.start()]
            yield from _ordinary(before.rstrip() if command.lstrip else before, start)
            yield TextPart(match.group(), match.start(), command)
            start = match.end()
            if command.rstrip:
                start += len(text[start:]) - len(text[start:].lstrip())
        yield from _ordinary(text[start:], start)


def _sentinels(count: int, *, listed: bool) -> tuple[CommandSpec, ...]:
    """T5's sentinels, which are counted from the end, behind the vocabulary or in it."""
    return tuple(
        CommandSpec(f"extra_id_{number}", f"<extra_id_{number}>", None if listed else count - 1 - number)
        for number in range(count)
    )


def _token(row: CommandSpec, table: str, size: int, look_up: Callable[[str], int | None]) -> CommandToken:
    number = look_up(row.token) if row.after is None else size + row.after
    assert number is not None  # noqa: S101  # of_table has looked
    lstrip = row.name in _SWALLOWING and table in _TABLES_WITH_SPACES
    return CommandToken(row.name, row.written or row.token, number, lstrip)


def _ordinary(text: str, start: int) -> Iterator[TextPart]:
    if text and not text.isspace():
        yield TextPart(text, start)
