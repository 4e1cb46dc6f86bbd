"""Every option of the engine, checked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from flagai.checks import check_flag, check_number
from flagai.errors import InputError

# So many tokens an answer may have, and so many answers may be written side by side: what is more is a slip of the pen.
MOST_TOKENS = 2**20
MOST_LANES = 4096
# option: (lowest, highest, whether the lowest itself is allowed, whether only whole numbers are). Factors above 1e9 and
# powers of a length above 10 leave float32.
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "max_new_tokens": (1, MOST_TOKENS, True, True),
    "min_new_tokens": (0, MOST_TOKENS, True, True),
    "temperature": (0, 1e9, False, False),
    "top_k": (0, math.inf, True, True),
    "top_p": (0, 1, True, False),
    "repetition_penalty": (0, 1e9, False, False),
    "no_repeat_ngram_size": (0, math.inf, True, True),
    "num_beams": (1, MOST_LANES, True, True),
    "n_best": (1, MOST_LANES, True, True),
    "length_penalty": (-10, 10, True, False),
    "beam_groups": (1, math.inf, True, True),
    "diversity_penalty": (0, 1e9, True, False),
    "contrastive_alpha": (0, 1, True, False),
    "prompt_lookup": (0, 63, True, True),
}
_OPTIONAL = ("top_k", "contrastive_alpha")
_IDS = ("stop_ids", "banned_ids")
_SEQUENCES = ("bad_words", "forced_words")
# Ids and seeds, of which torch takes 64 bits; the n-th sample's seed is n more.
_MOST = 2**62
PROCESSORS = ("repetition_penalty", "temperature", "top_k", "top_p")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode: greedy by default, else by sampling, beams or contrastive search.

    Args:
        max_new_tokens: how many tokens an answer (or each blank) may have.
        min_new_tokens: how many it has at least: no stop id before.
        stop_ids: ids that end an answer (or a blank); not part of the result.
        start_id: the token with which an answer starts, where the family has one: GLM's <sop> for blanks (needed
            there), T5's decoder start (default: the configuration's).
        banned_ids: ids that are never produced.
        do_sample: draw tokens instead of taking the best.
        temperature: divides the scores before drawing.
        top_k: draw among the k best (and those as good as the k-th); None or 0 for all. In contrastive search, the
            number of candidates.
        top_p: draw among the best tokens that together have this probability; 1 for all, 0 for the best alone.
        repetition_penalty: factor on the scores of ids that the text or the answer has already; also without
            sampling.
        no_repeat_ngram_size: no sequence of so many ids occurs twice in text and answer; 0 for no limit.
        bad_words: sequences of ids that are never produced.
        forced_words: sequences of ids that every answer contains; needs beams.
        forced_choices: for each further word several sequences of ids, of which every answer contains one; needs beams.
        seed: of the drawing; every row starts from it, so a text has the same answer alone and in a batch. The n-th
            sample of a text uses ``seed + n``. Default: drawn from torch's generator.
        seeds: one seed per text.
        num_beams: width of the beam search; 1 for none.
        n_best: how many answers to return: of the beams, or independent samples of each text.
        length_penalty: a score is divided by ``length ** length_penalty``, the stop id counted.
        early_stopping: when a beam search ends: True, as soon as ``num_beams`` answers are finished; False, when the
            best unfinished one at its present length is no better (transformers' heuristic); "never", when none can
            become better.
        beam_groups: diverse beam search: so many groups of ``num_beams / beam_groups`` beams.
        diversity_penalty: what a token loses for each beam of an earlier group that has just chosen it.
        contrastive_alpha: contrastive search among ``top_k`` candidates: the weight of being unlike what came before.
        prompt_lookup: in greedy search and in drawing one answer, how many tokens are guessed at every step by
            looking up where the newest ones stood before in text and answer; 0 for none. Answers stay as they are.
        processors: the order of those that apply to drawing.
        cuda_graphs: on a GPU, record a step once and replay it; the answers are the same, the launches cost nothing.

    Raises:
        InputError: an option has an impossible value, or two do not go together.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    start_id: int | None = None
    banned_ids: tuple[int, ...] = ()
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_words: tuple[tuple[int, ...], ...] = ()
    forced_choices: tuple[tuple[tuple[int, ...], ...], ...] = ()
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    num_beams: int = 1
    n_best: int = 1
    length_penalty: float = 0.0
    early_stopping: bool | Literal["never"] = "never"
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    contrastive_alpha: float | None = None
    prompt_lookup: int = 0
    processors: tuple[str, ...] = PROCESSORS
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name, (low, high, closed, integer) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                check_number(name, value, low, high, above=not closed, integer=integer)
        for name in _IDS:
            object.__setattr__(self, name, _ids(name, getattr(self, name)))
        for name in _SEQUENCES:
            object.__setattr__(self, name, tuple(_ids(name, sequence) for sequence in _many(name, getattr(self, name))))
        choices = tuple(
            tuple(_ids("forced_choices", ids) for ids in _many("forced_choices", word))
            for word in _many("forced_choices", self.forced_choices)
        )
        object.__setattr__(self, "forced_choices", choices)
        for name in ("start_id", "seed"):
            if getattr(self, name) is not None:
                _ids(name, [getattr(self, name)])
        if self.seeds is not None:
            object.__setattr__(self, "seeds", _ids("seeds", self.seeds))
        object.__setattr__(self, "processors", tuple(self.processors))
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
        if not all((*self.bad_words, *self.forced)) or not all(ids for word in self.forced for ids in word):
            raise InputError("bad_words or forced_words holds an empty sequence; each needs at least one id.")

    def _check_together(self) -> None:
        """Refuse options that contradict each other: (is it so, what is wrong, what to do)."""
        contrastive, beams = self.contrastive_alpha is not None, self.num_beams > 1
        for wrong, problem in (
            (self.do_sample and beams, "do_sample=True does not go with num_beams > 1; choose one"),
            (contrastive and (self.do_sample or beams), "contrastive_alpha goes without do_sample and num_beams"),
            (contrastive and not self.top_k, "contrastive_alpha needs top_k, the number of candidates (4 is usual)"),
            (
                self.lanes > MOST_LANES,
                f"contrastive_alpha compares top_k {self.top_k} candidates; expected at most {MOST_LANES}",
            ),
            (beams and self.n_best > self.num_beams, f"n_best {self.n_best} exceeds num_beams {self.num_beams}"),
            (
                not beams and not self.do_sample and self.n_best > 1,
                f"n_best {self.n_best} needs do_sample=True or num_beams of at least {self.n_best}",
            ),
            (
                self.min_new_tokens > self.max_new_tokens,
                f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}",
            ),
            (
                self.num_beams % self.beam_groups,
                f"num_beams {self.num_beams} is no multiple of {self.beam_groups} groups",
            ),
            (bool(self.forced) and not beams, "forced_words needs num_beams > 1"),
            (bool(self.forced) and self.beam_groups > 1, "forced_words goes without beam_groups"),
            (
                self.prompt_lookup and (contrastive or self.width > 1),
                "prompt_lookup goes with one answer that is chosen token by token: expected "
                + ("no contrastive_alpha" if contrastive else "num_beams=1 and n_best=1"),
            ),
            (self.seed is not None and self.seeds is not None, "give seed or seeds, not both"),
        ):
            if wrong:
                raise InputError(f"{problem}.")

    @property
    def forced(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The spellings of every word that answers contain."""
        return (*((word,) for word in self.forced_words), *self.forced_choices)

    @property
    def width(self) -> int:
        """How many answers to a text are written side by side."""
        return self.num_beams if self.num_beams > 1 else self.n_best

    @property
    def lanes(self) -> int:
        """How many tokens of a text are scored in a step: one for each of its answers, or for each candidate."""
        return self.width if self.contrastive_alpha is None else self.top_k or 1


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
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST:
            raise InputError(f"{name} holds {value!r:.80}; expected whole numbers of at least 0, below 2**62.")
    return ids
