"""Command tokens: which there are, by kind of tokenizer, and how to find them by name, id or text."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

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
    Id: int  # FlagAI spells it so
    lstrip: bool = False  # whether it swallows the spaces before it
    rstrip: bool = False  # whether it swallows the spaces after it
    special: bool = True  # whether decoding can leave it out; tokens that a user added as words are not special


class CommandSpec(NamedTuple):
    """A row of a table of command tokens."""

    name: str
    token: str
    after: int | None = None  # how far behind the vocabulary its id is; None: it is in the vocabulary
    written: str | None = None  # how it is written in texts, if not as in the vocabulary


def _text(name: str) -> str:
    """How GLM writes a command token."""
    usual = {"pad": END, "eos": END, "sop": SOP, "eop": EOP}
    return usual.get(name, f"[{name.upper() if name.islower() else name}]")


def _behind(**places: int) -> tuple[CommandSpec, ...]:
    return tuple(CommandSpec(name, _text(name), place) for name, place in places.items())


def _inside(**tokens: str) -> tuple[CommandSpec, ...]:
    return tuple(CommandSpec(name, token) for name, token in tokens.items())


# Chinese GLM; the id that follows [UNK]'s is not used.
_CHINESE = {"pad": 0, "eos": 0, "sep": 1, "cls": 2, "mask": 3, "unk": 4, "sop": 6, "eop": 7, "sMASK": 8}
_BERT = {"pad": "[PAD]", "eos": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]"}
_ROBERTA = {"pad": "</s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "mask": "<mask>", "unk": "<unk>"}
# ChatGLM and GLM-4. Source: tokenization_chatglm.py in their repositories.
_MASKS = {"mask": 0, "gMASK": 1, "sMASK": 2}
_CHAT_ROLES = ("system", "user", "assistant", "observation")
_MEDIA = ("begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
_CHATGLM = {"unk": "<unk>", "pad": "<pad>", "end": "</s>", "mask": "[MASK]", "gMASK": "[gMASK]", "sMASK": "[sMASK]"}
_CHATGLM |= {"sop": "<sop>", "eop": "<eop>", "bos": "<sop>", "eos": "<eop>"}


def _piped(names: Iterable[str], first: int) -> tuple[CommandSpec, ...]:
    return tuple(CommandSpec(name, f"<|{name}|>", first + place) for place, name in enumerate(names))


_CHATGLM2 = (
    *_inside(unk="<unk>", pad="<unk>", bos="<s>", eos="</s>"),
    *_behind(**_MASKS),
    CommandSpec("sop", "sop", 3),
    CommandSpec("eop", "eop", 4),
)
_GLM4 = (
    *(CommandSpec(name, END, 0) for name in ("eos", "pad")),
    *_behind(**{name: place + 1 for name, place in _MASKS.items()}),
    CommandSpec("sop", "<sop>", 4),
    CommandSpec("eop", "<eop>", 5),
)
# Of two names with one id, the first is what the id decodes to. Source: THUDM/GLM data_utils/tokenization.py.
TABLES: dict[str, tuple[CommandSpec, ...]] = {
    "fixed": _behind(**_CHINESE, gMASK=9, dBLOCK=10),
    "unfixed": _behind(**_CHINESE, gMASK=7, dBLOCK=9),
    "wordpiece": _inside(**_BERT) + _behind(sop=0, eop=1, gMASK=2, sMASK=3),
    "glm-bpe": _inside(pad=END, eos=END)
    + _behind(sop=0, eop=1, cls=2, mask=3, sep=4, unk=5, gMASK=6, sMASK=7, dBLOCK=8),
    "glm-roberta": tuple(row._replace(written=_text(row.name)) for row in _inside(**_ROBERTA)) + _behind(sop=0, eop=1),
    "gpt2": _inside(pad=END, bos=END, eos=END),
    "t5": _inside(pad="<pad>", eos="</s>", unk="<unk>"),
    "chatglm": _inside(**_CHATGLM),
    "chatglm2": _CHATGLM2,
    "codegeex2": _CHATGLM2,
    "chatglm3": _CHATGLM2 + _piped(_CHAT_ROLES, 5),
    "glm4": _GLM4 + _piped((*_CHAT_ROLES, *_MEDIA), 6),
}
_SWALLOWING = ("mask", "sMASK", "gMASK")
# WordPiece drops spaces anyway, and T5's sentinels stand between words.
_TABLES_WITH_SPACES = ("fixed", "unfixed", "glm-bpe", "glm-roberta")


# ChatGLM2's and ChatGLM3's tokenizers do not find command tokens in texts.
WITHOUT_LITERALS = ("chatglm2", "codegeex2", "chatglm3")


class TextPart(NamedTuple):
    """A part of a text: a command token, or what stands between two of them."""

    text: str
    start: int  # where it begins in the whole text
    command: CommandToken | None = None


class Commands:
    """The command tokens of one tokenizer, in the order of their importance."""

    def __init__(self, tokens: Iterable[CommandToken]) -> None:
        self.tokens = tuple(tokens)
        self.by_name = {token.name: token for token in self.tokens}
        self.by_id: dict[int, CommandToken] = {}
        self.by_text: dict[str, CommandToken] = {}
        for token in self.tokens:  # the first of several holds
            self.by_id.setdefault(token.Id, token)
            self.by_text.setdefault(token.token, token)
        self.special_ids = frozenset(token.Id for token in self.tokens if token.special)
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
        """The command tokens of a table for a vocabulary of ``size`` tokens, whose ids ``look_up`` finds.

        Raises:
            VocabularyError: the vocabulary, which is at ``place``, lacks a token.
        """
        rows = TABLES[table]
        if table == "t5" and look_up("▁<extra_id_0>") is None:
            # They are counted from the end, behind the vocabulary or in it.
            listed = look_up("<extra_id_0>") is not None
            rows += tuple(
                CommandSpec(f"extra_id_{number}", f"<extra_id_{number}>", None if listed else sentinels - 1 - number)
                for number in range(sentinels)
            )
        ids = [look_up(row.token) if row.after is None else size + row.after for row in rows]
        missing = [row.token for row, number in zip(rows, ids, strict=True) if number is None]
        if missing:
            raise VocabularyError(
                f"{place} lacks {', '.join(dict.fromkeys(missing))}: it is not a vocabulary of the kind {table!r}, or "
                "it is damaged. Download it again, or put the model's own file there."
            )
        swallowing = _SWALLOWING if table in _TABLES_WITH_SPACES else ()
        return cls(
            CommandToken(row.name, row.written or row.token, number, row.name in swallowing)
            for row, number in zip(rows, ids, strict=True)
            if number is not None
        )

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
        """The id of a command token; if there is none of this name, the message lists all."""
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.by_name, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join([entry for entry in self.by_name if not entry.startswith("extra_id_")])
            raise InputError(f"This tokenizer has no command token {name!r:.80}.{hint} It has: {known or 'none'}.")
        return found

    def split(self, text: str, *, keeps_spaces: bool = False) -> Iterator[TextPart]:
        """Cut a text at its literal command tokens; parts without a visible character are left out, unless kept."""
        start = 0
        for match in self._literal.finditer(text):
            command = self.by_text[match.group()]
            before = text[start : match.start()]
            yield from _ordinary(before.rstrip() if command.lstrip else before, start, keeps_spaces)
            yield TextPart(match.group(), match.start(), command)
            start = match.end()
            if command.rstrip:
                start += len(text[start:]) - len(text[start:].lstrip())
        yield from _ordinary(text[start:], start, keeps_spaces)


def _ordinary(text: str, start: int, keeps_spaces: bool) -> Iterator[TextPart]:
    if text and (keeps_spaces or not text.isspace()):
        yield TextPart(text, start)
