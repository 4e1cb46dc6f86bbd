"""What GLM-mini-ch learns: its vocabulary, its tasks, and their examples as inputs of the model."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_mini_vocabulary import is_han

from flagai.data.prepare import glm
from flagai.data.prepare.glm_pretraining import block_row, short_spans
from flagai.data.tokenizer import Tokenizer

LONGEST_SOURCE, LONGEST_TARGET, LONGEST_TEXT = 314, 48, 320
# Rows of each task while every poem of regular form is written once, for each of its examples. Inside of a batch all
# tokens weigh alike. While the learning rate falls, most poems are those that keep all rules ("poem_kept"). Blanks,
# clauses left out and places of echoes are drawn VARIANTS times for each example, beforehand.
SHARES = {
    "poem": 1.0,
    "poem_kept": 0.0,
    "poem_more": 1.0,
    "poem_title": 0.15,
    "poem_blank": 0.25,
    "poem_recital": 0.4,
    "title": 4.5,
    "text_recital": 0.15,
    "text_echo": 0.5,
    "text_blank": 0.35,
}
FALLING = SHARES | {"poem": 0.4, "poem_kept": 1.0, "poem_more": 0.3, "title": 2.0}
VARIANTS = {"poem_blank": 2, "title": 16, "text_echo": 4, "text_blank": 3}
# What of a text is asked for by which words before it: titles are mostly made of words of the text, and pairs of
# texts and titles are too few to learn from them how to copy.
RECITALS = ("首句：", "末句：", "要点：", "关键词：")
# Lengths of the repeated words that stand for keywords, and how many are named.
_KEYWORD_LENGTHS, _KEYWORDS = (6, 5, 4, 3), 2
# Asks after a text for what follows some of its words.
_ECHO = "续："
_ECHO_WORDS = 2
# How many of the characters of titles are their common words, which stay when a text is rewritten in others.
_COMMON = 160
# Shares of the rows whose characters are exchanged, and the least share of their characters: abstracts are few, and
# with less exchanged their titles are soon known by heart.
EXCHANGED = {"title": 0.85, "poem_recital": 0.5, "text_recital": 0.6, "text_echo": 0.9}
LEAST_EXCHANGED = 0.4
_LEFT_OUT = 4  # clauses, at most
# One poem of so many is recited; how many answers a text gives.
_RECITED = 6
_ANSWERS = {"poem_recital": 1, "text_recital": len(RECITALS)}
_LINE_END = frozenset("，。！？；")

Record = dict[str, str]


# -- tasks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn from, as tokens.

    Args:
        source: what is read; empty for blank filling.
        target: what is written, or the text that loses spans.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


Texts = Sequence[tuple[int, ...]]
Tasks = dict[str, list[Example]]


def examples(poems: Mapping[str, Texts], articles: Mapping[str, Texts], **more: Sequence[Any]) -> Tasks:
    """The examples of every task; see :func:`expanded`.

    Args:
        poems: ``prompt`` ("title：form"), ``text`` and ``title`` of each, as tokens.
        articles: ``text`` and ``title`` of each, as tokens.
        **more: ``prompts`` and ``verses`` of poems of other forms, ``texts`` without titles, ``kept``: the numbers of
            the poems that keep all rules.
    """
    verses, texts = poems["text"], [*articles["text"], *more.get("texts", ())]
    return {
        "poem": _pairs(poems["prompt"], verses),
        "poem_kept": [Example(poems["prompt"][number], verses[number]) for number in more.get("kept", ())],
        "poem_more": _pairs(more.get("prompts", ()), more.get("verses", ())),
        "poem_title": _pairs(verses, poems["title"]),
        "poem_blank": [Example((), verse) for verse in verses],
        "poem_recital": [Example(verse, ()) for verse in verses[::_RECITED]],
        "text_recital": [Example(text, ()) for text in texts],
        "text_echo": [Example(text[:LONGEST_SOURCE], ()) for text in texts],
        "title": [
            Example(text[:LONGEST_SOURCE], head[:LONGEST_TARGET])
            for text, head in zip(articles["text"], articles["title"], strict=True)
        ],
        "text_blank": [Example((), text[:LONGEST_TEXT]) for text in texts],
    }


def expanded(tokenizer: Tokenizer, task: str, entries: Sequence[Example]) -> Sequence[Example]:
    """Examples of recitals as what is asked for and the answer, others as they are."""
    each = _ANSWERS.get(task)
    return recitals(tokenizer, [entry.source for entry in entries], each) if each else entries


def recitals(tokenizer: Tokenizer, texts: Sequence[tuple[int, ...]], each: int) -> list[Example]:
    """Texts and ``each`` of: the first clause, the last, the one most like the rest of the text, repeated words."""
    asked = _encode(tokenizer, RECITALS)
    comma = tokenizer.encode("，")[0]
    found = []
    for number, text in enumerate(texts):
        text = text[: LONGEST_SOURCE - 6]
        clauses = [clause for clause in _clauses(tokenizer, text) if 2 < len(clause) <= LONGEST_TARGET]
        if clauses:
            main = max(clauses, key=lambda clause: _likeness(clause, text))
            wanted = (clauses[0], clauses[-1], main, _keywords(clauses, comma))
            kinds = [(number + place) % len(asked) for place in range(each)]
            found += [Example(asked[kind] + text, wanted[kind]) for kind in kinds if wanted[kind]]
    return found


def _keywords(clauses: Sequence[tuple[int, ...]], comma: int) -> tuple[int, ...]:
    """The longest words that are repeated most, in their order."""
    counts: Counter[tuple[int, ...]] = Counter()
    for clause in clauses:
        for length in _KEYWORD_LENGTHS:
            counts.update(clause[start : start + length] for start in range(len(clause) - length + 1))
    repeated = {words: count for words, count in counts.items() if count > 1}  # by their first places
    best = sorted(repeated, key=lambda words: -(repeated[words] - 1) * (len(words) - 1))
    chosen: list[tuple[int, ...]] = []
    for words in best:
        if not any(set(words) & set(other) for other in chosen):
            chosen.append(words)
        if len(chosen) == _KEYWORDS:
            break
    places = {words: place for place, words in enumerate(repeated)}
    ordered = sorted(chosen, key=places.__getitem__)
    return tuple(token for words in ordered for token in (*words, comma))[:-1]


def _clauses(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[int, ...]]:
    ends = [-1, *_line_ends(tokenizer, ids), len(ids)]
    return [tuple(ids[start + 1 : end]) for start, end in itertools.pairwise(ends) if end > start + 1]


def _likeness(clause: tuple[int, ...], text: tuple[int, ...]) -> float:
    """How much of a clause stands elsewhere in the text; long ones are worth more."""
    rest = Counter(text) - Counter(clause)
    return sum(token in rest for token in clause) / (len(clause) + 8)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    return [tuple(encoding.ids) for encoding in tokenizer.encode_batch([text.lower() for text in texts])]


def _pairs(sources: Texts, targets: Texts) -> list[Example]:
    return [Example(source, target) for source, target in zip(sources, targets, strict=True)]


# -- rows -----------------------------------------------------------------------------------------------------


class Rows:
    """Makes inputs of examples.

    Args:
        tokenizer: the model's.
        titles: titles as tokens: their most frequent characters are never exchanged in them.
    """

    def __init__(self, tokenizer: Tokenizer, titles: Sequence[Sequence[int]]) -> None:
        self.tokenizer = tokenizer
        self.echo = tuple(tokenizer.encode(_ECHO))
        self.vocabulary = _tokens(tokenizer)
        han = [number for number, token in enumerate(self.vocabulary) if is_han(token)]
        self.han = han
        known = frozenset(han)
        counts = Counter(token for title in titles for token in title if token in known)
        self.common = frozenset(token for token, _ in counts.most_common(_COMMON))
        asked = {token for cue in (*RECITALS, _ECHO) for token in tokenizer.encode(cue)}
        self.free = known - asked
        self.content = self.free - self.common

    def row(self, task: str, example: Example, chance: random.Random | None) -> glm.GLMInput:
        """The input of an example.

        Args:
            task: its task.
            example: the example.
            chance: for training; None gives the plain form of evaluation.
        """
        if example.source:
            return glm.causal_row(self.tokenizer, *self.pair(task, example, chance))
        return self._blank(example.target, chance or random.Random(len(example.target)))

    def pair(
        self, task: str, example: Example, chance: random.Random | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The source and the target that a row is made of."""
        source, target = example.source, example.target
        if chance is not None and task in ("title", "text_echo"):
            for _ in range(chance.randint(0, _LEFT_OUT)):
                source = _without_a_clause(self.tokenizer, source, chance)
        if task == "text_echo":
            source, target = self._echo(source, chance or random.Random(len(source)))
        return source, target

    def _echo(self, text: tuple[int, ...], chance: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A text and the beginning of words in it, and how they go on there up to the end of the clause."""
        text = text[: LONGEST_SOURCE - len(self.echo) - _ECHO_WORDS]
        clauses = [clause for clause in _clauses(self.tokenizer, text) if len(clause) > _ECHO_WORDS + 1]
        clause = chance.choice(clauses) if clauses else text
        start = chance.randint(0, max(0, len(clause) - _ECHO_WORDS - 2))
        begun, rest = clause[start : start + _ECHO_WORDS], clause[start + _ECHO_WORDS :]
        return text + self.echo + begun, rest[:LONGEST_TARGET]

    def _blank(self, text: tuple[int, ...], chance: random.Random) -> glm.GLMInput:
        tokenizer = self.tokenizer
        ids = [tokenizer.get_command_id("cls"), *text, tokenizer.get_command_id("eos")]
        kind = chance.random()
        if kind < 0.4:
            spans = short_spans(len(ids), chance)
            if spans:
                return block_row(tokenizer, ids, spans)
        if kind < 0.7:
            span = _sentence(tokenizer, ids, chance)
            if span is not None:
                return block_row(tokenizer, ids, [span], "sMASK")
        start = chance.randint(min(2, len(ids) - 2), max(2, len(ids) * 3 // 4))
        return block_row(tokenizer, ids[:-1], [(start, len(ids) - 1)] if start < len(ids) - 1 else [], "gMASK")


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens by number."""
    return (tokenizer.description.folder / "vocab.txt").read_text(encoding="utf-8").split("\n")


def _line_ends(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    marks = _marks(tokenizer)
    return [place for place, token in enumerate(ids) if token in marks]


def _marks(tokenizer: Tokenizer) -> frozenset[int]:
    found = getattr(tokenizer, "line_marks", None)
    if found is None:
        found = frozenset(tokenizer.encode("".join(sorted(_LINE_END)) + ".;,")) - {tokenizer.get_command_id("unk")}
        tokenizer.line_marks = found  # type: ignore[attr-defined]  # looked up for every row
    return found


def _sentence(tokenizer: Tokenizer, ids: Sequence[int], chance: random.Random) -> tuple[int, int] | None:
    """A whole line or clause without its punctuation."""
    ends = [0, *_line_ends(tokenizer, ids)]
    spans = [(start + 1, end) for start, end in itertools.pairwise(ends) if 2 < end - start < 60]
    return chance.choice(spans) if spans else None


def _without_a_clause(tokenizer: Tokenizer, ids: tuple[int, ...], chance: random.Random) -> tuple[int, ...]:
    """A text that lacks one of its clauses, so that no text is read twice in the same words."""
    ends = [-1, *_line_ends(tokenizer, ids)]
    if len(ends) < 4:
        return ids
    place = chance.randrange(1, len(ends) - 1)
    return ids[: ends[place] + 1] + ids[ends[place + 1] + 1 :]
