"""Every option of the engine, checked."""

import dataclasses
import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from flagai.checks import check_flag, check_number
from flagai.errors import InputError

# So many tokens an answer may have, and so many answers may be written side by side: what is more is a slip of the pen.
MOST_TOKENS = 2**20
MOST_LANES = 4096
# Ids and seeds, of which torch takes 64 bits; the n-th sample's seed is n more.
_MOST = 2**62
PROCESSORS = ("repetition_penalty", "temperature", "top_k", "top_p")

# Former names of options, which are accepted with a warning: those of users (in texts), and the engine's (in ids).
_RENAMED = {
    "n_best": "num_return_sequences",
    "beam_groups": "num_beam_groups",
    "contrastive_alpha": "penalty_alpha",
    "prompt_lookup": "prompt_lookup_num_tokens",
}
RENAMED_TEXTS: Mapping[str, str] = {**_RENAMED, "forced_words": "force_words", "min_length": "min_new_tokens"}
RENAMED_IDS: Mapping[str, str] = {
    **_RENAMED,
    "stop_ids": "stop_token_ids",
    "banned_ids": "suppress_tokens",
    "bad_words": "bad_words_ids",
    "forced_words": "force_words_ids",
    "forced_choices": "force_words_ids",
}


def with_new_names(given: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Options under their names of today.

    Args:
        given: options by name.
        renamed: former names -> names.

    Raises:
        InputError: an option is given under both names.

    Returns:
        The options by their present names.
    """
    found = dict(given)
    for old in renamed.keys() & given.keys():
        new = renamed[old]
        if new in found:
            raise InputError(f"{old} is the former name of {new}. Give {new} alone.")
        warnings.warn(f"{old} is now called {new}.", FutureWarning, stacklevel=level_of_caller())
        found[new] = found.pop(old)
    return found


def level_of_caller() -> int:
    """How many calls ago this library was called: the warning names that line (Python 3.12: skip_file_prefixes)."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("flagai."):
        level, frame = level + 1, frame.f_back
    return level + 1


def _accept_former_names(cls: "type[Decoding]") -> "type[Decoding]":
    create: Callable[..., None] = cls.__init__

    @functools.wraps(create)
    def init(self: "Decoding", **options: Any) -> None:
        create(self, **(with_new_names(options, RENAMED_IDS) if RENAMED_IDS.keys() & options else options))

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


def _number(default: float | None, low: float, high: float = math.inf, *, above: bool = False) -> Any:
    """A field that holds a number of a range."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "above": above})


def _integer(default: int | None, low: int, high: float = math.inf) -> Any:
    """A field that holds an integer of a range."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "integer": True})


@_accept_former_names
@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode: greedy by default, else by sampling, beams or contrastive search.

    Args:
        max_new_tokens: how many tokens an answer (or each blank) may have.
        min_new_tokens: how many it has at least: no stop id before.
        stop_token_ids: ids that end an answer (or a blank); not part of the result.
        start_id: the token with which an answer starts, where the family has one: GLM's <sop> for blanks (needed
            there), T5's decoder start (default: the configuration's).
        suppress_tokens: ids that are never produced.
        do_sample: draw tokens instead of taking the best.
        temperature: divides the scores before drawing.
        top_k: draw among the k best (and those as good as the k-th); None or 0 for all. In contrastive search, the
            number of candidates.
        top_p: draw among the best tokens that together have this probability; 1 for all, 0 for the best alone.
        repetition_penalty: factor on the scores of ids that the text or the answer has already; also without
            sampling.
        no_repeat_ngram_size: no sequence of so many ids occurs twice in text and answer; 0 for no limit.
        bad_words_ids: sequences of ids that are never produced.
        force_words_ids: for each word a sequence of ids that every answer contains, or several sequences, of which
            every answer contains one; needs beams.
        seed: of the drawing; every row starts from it, so a text has the same answer alone and in a batch. The n-th
            sample of a text uses ``seed + n``. Default: drawn from torch's generator.
        seeds: one seed per text.
        num_beams: width of the beam search; 1 for none.
        num_return_sequences: how many answers to return: of the beams, or independent samples of each text.
        length_penalty: a score is divided by ``length ** length_penalty``, the stop id counted.
        early_stopping: when a beam search ends: True, as soon as ``num_beams`` answers are finished; False, when the
            best unfinished one at its present length is no better (transformers' heuristic); "never", when none can
            become better.
        num_beam_groups: diverse beam search: so many groups of ``num_beams / num_beam_groups`` beams.
        diversity_penalty: what a token loses for each beam of an earlier group that has just chosen it.
        penalty_alpha: contrastive search among ``top_k`` candidates: the weight of being unlike what came before.
        prompt_lookup_num_tokens: in greedy search and in sampling one answer, how many draft tokens every step
            verifies, looked up where the last tokens stood before in text and answer; 0 for none. Answers stay as
            they are.
        processors: the order of those that apply to drawing.
        cuda_graphs: on a GPU, record a step once and replay it; the answers are the same, the launches cost nothing.

    Raises:
        InputError: an option has an impossible value, or two do not fit together.
    """

    max_new_tokens: int = _integer(100, 1, MOST_TOKENS)
    min_new_tokens: int = _integer(0, 0, MOST_TOKENS)
    stop_token_ids: tuple[int, ...] = ()
    start_id: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    do_sample: bool = False
    temperature: float = _number(1.0, 0, 1e9, above=True)  # factors above 1e9 leave float32
    top_k: int | None = _integer(None, 0)
    top_p: float = _number(1.0, 0, 1)
    repetition_penalty: float = _number(1.0, 0, 1e9, above=True)
    no_repeat_ngram_size: int = _integer(0, 0)
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    force_words_ids: tuple[tuple[int, ...] | tuple[tuple[int, ...], ...], ...] = ()
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    num_beams: int = _integer(1, 1, MOST_LANES)
    num_return_sequences: int = _integer(1, 1, MOST_LANES)
    length_penalty: float = _number(0.0, -10, 10)  # powers of a length above 10 leave float32
    early_stopping: bool | Literal["never"] = "never"
    num_beam_groups: int = _integer(1, 1)
    diversity_penalty: float = _number(0.0, 0, 1e9)
    penalty_alpha: float | None = _number(None, 0, 1)
    prompt_lookup_num_tokens: int = _integer(0, 0, 63)
    processors: tuple[str, ...] = PROCESSORS
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata and not (value is None and field.default is None):
                object.__setattr__(self, field.name, check_number(field.name, value, **field.metadata))
        for name in ("start_id", "seed"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _ids(name, [getattr(self, name)])[0])
        exact = {
            "stop_token_ids": _ids("stop_token_ids", self.stop_token_ids),
            "suppress_tokens": _ids("suppress_tokens", self.suppress_tokens),
            "bad_words_ids": tuple(_ids("bad_words_ids", ids) for ids in _many("bad_words_ids", self.bad_words_ids)),
            "force_words_ids": tuple(map(_spellings, _many("force_words_ids", self.force_words_ids))),
            "seeds": None if self.seeds is None else _ids("seeds", self.seeds),
            "processors": tuple(self.processors),
        }
        for name, value in exact.items():
            object.__setattr__(self, name, value)
        self._check_choices()
        self._check_together()

    def _check_choices(self) -> None:
        for name in ("do_sample", "cuda_graphs"):
            check_flag(name, getattr(self, name))
        early = self.early_stopping
        if not isinstance(early, bool | str) or early not in (True, False, "never"):
            raise InputError(f"early_stopping is {early!r:.80}; expected True, False or 'never'.")
        unknown = [name for name in self.processors if name not in PROCESSORS]
        if unknown or len(set(self.processors)) < len(self.processors):
            raise InputError(f"processors are {self.processors}; expected some of {PROCESSORS}, each once.")
        if not all((*self.bad_words_ids, *self.forced)) or not all(ids for word in self.forced for ids in word):
            raise InputError("bad_words_ids or force_words_ids holds an empty sequence; each needs at least one id.")

    def _check_together(self) -> None:
        """Refuse options that contradict each other: (is it so, what is wrong, what to do)."""
        count = self.num_return_sequences
        contrastive, beams = self.penalty_alpha is not None, self.num_beams > 1
        for wrong, problem in (
            (self.do_sample and beams, "do_sample=True cannot be combined with num_beams > 1; choose one"),
            (contrastive and (self.do_sample or beams), "penalty_alpha cannot be combined with do_sample or num_beams"),
            (contrastive and not self.top_k, "penalty_alpha needs top_k, the number of candidates (4 is usual)"),
            (
                self.lanes > MOST_LANES,
                f"penalty_alpha compares top_k {self.top_k} candidates; expected at most {MOST_LANES}",
            ),
            (beams and count > self.num_beams, f"num_return_sequences {count} exceeds num_beams {self.num_beams}"),
            (
                not beams and not self.do_sample and count > 1,
                f"num_return_sequences {count} needs do_sample=True or num_beams of at least {count}",
            ),
            (
                self.min_new_tokens > self.max_new_tokens,
                f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}",
            ),
            (
                self.num_beams % self.num_beam_groups,
                f"num_beams {self.num_beams} is not a multiple of {self.num_beam_groups} groups",
            ),
            (bool(self.forced) and not beams, "force_words_ids needs num_beams > 1"),
            (bool(self.forced) and self.num_beam_groups > 1, "force_words_ids cannot be combined with num_beam_groups"),
            (
                self.prompt_lookup_num_tokens and (contrastive or self.num_answers > 1),
                "prompt_lookup_num_tokens needs one answer that is chosen token by token: expected "
                + ("no penalty_alpha" if contrastive else "num_beams=1 and num_return_sequences=1"),
            ),
            (self.seed is not None and self.seeds is not None, "give seed or seeds, not both"),
        ):
            if wrong:
                raise InputError(f"{problem}.")

    def of_texts(self, count: int) -> "list[Decoding]":
        """The decoding of each text, with its own seed.

        Args:
            count: how many texts.

        Raises:
            InputError: there is not one seed per text.
        """
        if self.seeds is None:
            return [self] * count
        if len(self.seeds) != count:
            raise InputError(f"seeds has {len(self.seeds)} entries for {count} prompts; give one per prompt.")
        return [dataclasses.replace(self, seed=seed, seeds=None) for seed in self.seeds]

    @property
    def forced(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The spellings of each word that every answer contains."""
        return self.force_words_ids  # type: ignore[return-value]  # see __post_init__

    @property
    def num_answers(self) -> int:
        """How many answers to a text are written side by side."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences

    @property
    def lanes(self) -> int:
        """How many tokens of a text are scored in a step: one for each of its answers, or for each candidate."""
        return self.num_answers if self.penalty_alpha is None else self.top_k or 1


def _many(name: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r:.80}; expected a sequence.")
    return value


def _ids(name: str, values: Any) -> tuple[int, ...]:
    try:
        ids = tuple(_many(name, values))
    except TypeError as error:  # an array without dimensions
        raise InputError(f"{name} is {values!r:.80}; expected a sequence.") from error
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < _MOST:
            raise InputError(f"{name} holds {value!r:.80}; expected integers of at least 0, below 2**62.")
    return tuple(map(int, ids))


def _spellings(word: Any) -> tuple[tuple[int, ...], ...]:
    """A word of ``force_words_ids`` as the sequences that it may be."""
    word = tuple(_many("force_words_ids", word))
    several = bool(word) and not isinstance(word[0], Integral)
    return tuple(_ids("force_words_ids", ids) for ids in word) if several else (_ids("force_words_ids", word),)
