"""What GLM-mini-ch learns: its vocabulary, its tasks, and their examples as inputs of the model."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glm_mini_vocabulary import is_han

from flagai.data.prepare import glm
from flagai.data.prepare.glm_pretraining import block_row, short_spans
from flagai.data.tokenizer import Tokenizer

LONGEST_SOURCE, LONGEST_TARGET, LONGEST_TEXT = 314, 48, 320
# How often each task's examples are seen while every poem is written once, by stage. The first learns the language of
# poems; the second, which starts from its result, learns to copy; the third finishes poems and titles.
_FIRST = {
    "poem": 1.0,
    "poem_title": 0.1,
    "poem_blank": 0.3,
    "poem_recital": 0.9,
    "title": 2.5,
    "text_recital": 0.7,
    "text_echo": 0.0,
    "text_blank": 0.5,
}
_SECOND = {
    "poem": 0.7,
    "poem_title": 0.1,
    "poem_blank": 0.2,
    "poem_recital": 0.7,
    "title": 7.0,
    "text_recital": 1.7,
    "text_echo": 3.0,
    "text_blank": 2.0,
}
_THIRD = {
    "poem": 1.0,
    "poem_title": 0.1,
    "poem_blank": 0.25,
    "poem_recital": 0.5,
    "title": 3.0,
    "text_recital": 0.8,
    "text_echo": 1.5,
    "text_blank": 1.0,
}
STAGES = {1: _FIRST, 2: _SECOND, 3: _THIRD}
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
# Shares of the examples whose characters are exchanged.
_EXCHANGED = {"title": 0.85, "poem_recital": 0.5, "text_recital": 0.6, "text_echo": 0.9}
# One poem of so many is recited.
_RECITED = 6
_LINE_END = frozenset("，。！？；")

Record = dict[str, str]


# -- tasks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A text to learn from, as tokens.

    Args:
        source: what is read; empty for blank filling.
        target: what is written, or the text that loses spans.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


def examples(tokenizer: Tokenizer, poems: Sequence[Record], articles: Sequence[Record]) -> dict[str, list[Example]]:
    """The examples of every task.

    Args:
        tokenizer: the model's.
        poems: ``title``, ``form``, ``text``.
        articles: ``text``, ``title``.
    """
    prompts = _encode(tokenizer, [f"{poem['title']}：{poem['form']}" for poem in poems])
    verses = _encode(tokenizer, [poem["text"] for poem in poems])
    titles = _encode(tokenizer, [poem["title"] for poem in poems])
    texts = _encode(tokenizer, [article["text"] for article in articles])
    heads = _encode(tokenizer, [article["title"] for article in articles])
    return {
        "poem": _pairs(prompts, verses),
        "poem_title": _pairs(verses, titles),
        "poem_blank": [Example((), verse) for verse in verses],
        "poem_recital": recitals(tokenizer, verses[::_RECITED], 1),
        "text_recital": recitals(tokenizer, texts, len(RECITALS)),
        "text_echo": [Example(text[:LONGEST_SOURCE], ()) for text in texts],
        "title": [
            Example(text[:LONGEST_SOURCE], head[:LONGEST_TARGET]) for text, head in zip(texts, heads, strict=True)
        ],
        "text_blank": [Example((), text[:LONGEST_TEXT]) for text in texts],
    }


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


def _pairs(sources: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]]) -> list[Example]:
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
        han = [number for number, token in enumerate(_tokens(tokenizer)) if is_han(token)]
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
            for _ in range(chance.randint(0, 3)):
                source = _without_a_clause(self.tokenizer, source, chance)
        exchange = chance is not None and chance.random() < _EXCHANGED.get(task, 0.0)
        if exchange and chance is not None:
            source, target = self.exchange(source, target, self.content if task == "title" else self.free, chance)
        if task == "text_echo":
            source, target = self._echo(source, chance or random.Random(len(source)))
        return source, target

    def exchange(
        self, source: tuple[int, ...], target: tuple[int, ...], free: frozenset[int], chance: random.Random
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Exchange some characters of a text for others, everywhere: now the text alone says what the target is."""
        share = chance.random()
        met = {token for token in source if token in free}
        new = {token: chance.choice(self.han) for token in sorted(met) if chance.random() < share}
        return tuple(new.get(token, token) for token in source), tuple(new.get(token, token) for token in target)

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
