"""The keyword options of text generation, as types for checkers and editors.

``Decoding`` has their defaults, ranges and meaning (``flagai.generation.options``); here texts take the place of ids.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from flagai.generation.types import LogitsProcessor


class AdapterChoice(TypedDict, total=False):
    """What chooses the adapter of a call.

    Args:
        adapter: the name of the LoRA adapter that computes it; "base" for none; default the active one.
    """

    adapter: str | None


class SharedOptions(AdapterChoice, total=False):
    """Options that every method takes by keyword.

    Args:
        max_new_tokens: the largest number of tokens of an answer; it wins over ``out_max_length``.
        min_new_tokens: the smallest number of tokens of an answer.
        do_sample: sample tokens, instead of a greedy or beam search.
        seed: of sampling; each text of a list starts from it, as if it were alone.
        seeds: one seed per text.
        num_beams: the number of beams; 1 for none.
        length_penalty: a score is divided by ``length ** length_penalty``.
        early_stopping: when a beam search ends.
        num_beam_groups: diverse beam search, in so many groups of beams.
        diversity_penalty: what a token loses for each beam of an earlier group that has just chosen it.
        penalty_alpha: contrastive search among ``top_k`` candidates.
        no_repeat_ngram_size: no sequence of so many tokens occurs twice.
        prompt_lookup_num_tokens: the number of draft tokens that a step verifies.
        bad_words: texts that no answer contains.
        force_words: texts that every answer contains; needs beams.
        stop: texts that end an answer and are not part of it.
        logits_processors: functions of ids and scores, which return scores.
        truncation: cut a text that is too long, with a warning; False refuses it.
    """

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    seed: int | None
    seeds: Sequence[int] | None
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_beam_groups: int
    diversity_penalty: float
    penalty_alpha: float | None
    no_repeat_ngram_size: int
    prompt_lookup_num_tokens: int
    bad_words: str | Sequence[str]
    force_words: str | Sequence[str]
    stop: str | Sequence[str]
    logits_processors: "Sequence[LogitsProcessor]"
    truncation: bool


class SamplingOptions(SharedOptions, total=False):
    """The options of one answer to each text.

    Args:
        temperature: divides the logits before sampling.
        top_k: sample from so many of the most probable tokens; 0 for all.
        top_p: sample from the fewest tokens that together have this probability; 1 for all.
        repetition_penalty: above 1 makes tokens that have occurred less probable.
    """

    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float


class GenerationOptions(SamplingOptions, total=False):
    """All options of text generation.

    Args:
        num_return_sequences: the number of answers to each text, with their scores.
    """

    num_return_sequences: int
