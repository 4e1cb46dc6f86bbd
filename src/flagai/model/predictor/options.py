"""What users may ask of generation, in words and texts; translated into what the engine takes, in tokens."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from flagai.checks import check_flag, check_integer
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import TextProtocol
from flagai.generation import Decoding
from flagai.generation.keywords import GenerationOptions
from flagai.generation.options import MOST_TOKENS, RENAMED_TEXTS, level_of_caller, with_new_names
from flagai.generation.types import LogitsProcessor
from flagai.model.predictor.forbidden import ForbiddenTexts

# What chooses the adapter is taken before (:func:`flagai.model.predictor.adapter_choice.takes_adapter`).
NAMES = tuple(name for name in GenerationOptions.__annotations__ if name != "adapter")
_TEXTS = ("bad_words", "force_words", "stop")
# FlagAI's and transformers' names of options -> names, for hints.
_HINTS = {
    "beam_size": "num_beams",
    "alpha": "penalty_alpha",
    "maxlen": "input_max_length",
}
# What an option needs to have an effect, and the values that are passed without a purpose: its own default, FlagAI's,
# transformers'. The seed is not here: answers that nothing draws are reproducible without it.
_NEEDS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "temperature": ("do_sample=True", (1,)),
    "top_p": ("do_sample=True", (1,)),
    "top_k": ("do_sample=True, or penalty_alpha", (None, 0, 30)),
    "length_penalty": ("num_beams > 1", (0, 1)),
    "early_stopping": ("num_beams > 1", ("never", False)),
    "diversity_penalty": ("num_beam_groups > 1", (0,)),
}
# Options that the engine takes as they are.
_DECODING = [field.name for field in fields(Decoding) if field.name in NAMES and field.name != "max_new_tokens"]


@dataclass(frozen=True)
class Options:
    """What a user asks of generation."""

    max_new_tokens: int  # how many tokens an answer (or a blank) may have
    decoding: Mapping[str, Any] = field(default_factory=dict)  # settings of the engine, by their names there
    bad_words: tuple[str, ...] = ()  # texts that must not occur
    force_words: tuple[str, ...] = ()  # texts that must occur (beam search only)
    stop: tuple[str, ...] = ()  # texts at which an answer ends; they are not part of it
    logits_processors: tuple[LogitsProcessor, ...] = ()  # functions that change the scores of the next token
    truncation: bool = True  # cut a text that is too long; False refuses it
    length_name: str = "max_new_tokens"  # the name under which `max_new_tokens` was given, for messages

    @classmethod
    def read(cls, max_new_tokens: int, given: Mapping[str, Any], **decoding: Any) -> "Options":
        """Read what a user gave by keyword.

        Args:
            max_new_tokens: how many tokens an answer may have.
            given: the further keywords, see :class:`flagai.generation.keywords.GenerationOptions`; former names too.
            **decoding: settings that the method makes itself.

        Raises:
            InputError: an option is unknown; the message has the nearest.
        """
        given = with_new_names(given, RENAMED_TEXTS)
        for name in given:
            if name not in NAMES:
                raise InputError(_unknown_option(name))
        name = "max_new_tokens" if "max_new_tokens" in given else "out_max_length"
        max_new_tokens = check_integer(name, given.get(name, max_new_tokens), high=MOST_TOKENS)
        check_flag("do_sample", given.get("do_sample", False))
        values = dict(decoding)
        values |= {name: given[name] for name in _DECODING if name in given}
        texts = {name: _texts(name, given.get(name, ())) for name in _TEXTS}
        processors = given.get("logits_processors", ())
        if not isinstance(processors, list | tuple) or not all(map(callable, processors)):
            raise InputError(f"logits_processors is {processors!r:.80}; expected a list of functions.")
        truncation = given.get("truncation", True)
        check_flag("truncation", truncation)
        return cls(
            max_new_tokens,
            values,
            **texts,
            logits_processors=tuple(processors),
            truncation=truncation,
            length_name=name,
        )

    def with_seeds(self, seeds: Sequence[Any]) -> "Options":
        """These options with one seed per text."""
        return replace(self, decoding={**self.decoding, "seeds": tuple(seeds)})

    def refuse_all_but(self, *names: str, reason: str) -> None:
        """Refuse options that would change nothing.

        Args:
            *names: settings of the engine that are understood.
            reason: why the others mean nothing, for the error.

        Raises:
            InputError: other options were given.
        """
        texts = [name for name in (*_TEXTS, "logits_processors") if getattr(self, name)]
        others = [name for name in self.decoding if name not in names] + texts
        if others:
            raise InputError(f"{', '.join(others)} has no meaning here: {reason}. Leave it out.")

    def for_model(self, protocol: TextProtocol, tokenizer: Tokenizer, rows: int, ends: Sequence[int] = ()) -> Decoding:
        """What the engine takes, for a kind of model.

        Args:
            protocol: how the model is asked.
            tokenizer: its tokenizer.
            rows: how many tokens the model scores; those that the tokenizer does not have are never written.
            ends: tokens that end an answer, besides those of the protocol.
        """
        start = protocol.start(tokenizer)
        banned = (*protocol.never(tokenizer), *tokenizer.rows_without_token(rows))
        if self.decoding.get("do_sample"):
            banned += protocol.never_sampled(tokenizer)
        if self.force_words and self.decoding.get("num_beams", 1) == 1:
            raise InputError("force_words needs num_beams > 1.")
        forced = tuple(self._forced(text, tokenizer) for text in self.force_words)
        if not all(forced):
            raise InputError(
                f"One of force_words {list(self.force_words)!r:.80} has more tokens than an answer may have "
                f"({self.max_new_tokens}). Raise {self.length_name}."
            )
        decoding = Decoding(
            max_new_tokens=self.max_new_tokens,
            stop_token_ids=tuple(dict.fromkeys((*protocol.stop(tokenizer), *ends))),
            start_id=start[0] if start else None,
            suppress_tokens=banned,
            force_words_ids=forced,
            processors=protocol.order,
            **self.decoding,
        )
        _tell_without_effect(decoding, scored="num_return_sequences" in self.decoding)
        return decoding

    def processors_for(self, tokenizer: Tokenizer, rows: int) -> tuple[LogitsProcessor, ...]:
        """The user's functions, and after them the one that forbids ``bad_words``."""
        forbidden = ForbiddenTexts(self.bad_words, tokenizer, rows)
        return (*self.logits_processors, forbidden) if forbidden else self.logits_processors

    def _forced(self, text: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
        """The spellings of a text that an answer has room for."""
        if not tokenizer.can_write(text):
            raise InputError(f"force_words has {text!r:.80}, which the model's vocabulary cannot write. Leave it out.")
        return tuple(ids for ids in spellings(text, tokenizer) if len(ids) <= self.max_new_tokens)


def _tell_without_effect(decoding: Decoding, *, scored: bool) -> None:
    """Warn of options that change nothing, such as ``temperature`` in a greedy search.

    Args:
        decoding: all options.
        scored: whether the caller sees scores, which ``length_penalty`` changes with any strategy.
    """
    beams = decoding.num_beams > 1
    effective = {
        "temperature": decoding.do_sample,
        "top_p": decoding.do_sample,
        "top_k": decoding.do_sample or decoding.penalty_alpha is not None,
        "length_penalty": beams or scored,
        "early_stopping": beams,
        "diversity_penalty": decoding.num_beam_groups > 1,
    }
    for name, (needed, idle) in _NEEDS.items():
        value = getattr(decoding, name)
        if not effective[name] and value not in idle:
            message = f"{name}={value!r} has no effect without {needed}. Add that, or leave {name} out."
            warnings.warn(message, UserWarning, stacklevel=level_of_caller())


def _unknown_option(name: str) -> str:
    known = (*NAMES, "input_max_length", "out_max_length")
    near = _HINTS.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), None)
    hint = f" Did you mean {near!r}?" if near else ""
    if name == "max_length":
        hint = " Did you mean 'out_max_length' (max_new_tokens), of the answer, or 'input_max_length', of the text?"
    return f"There is no option {name!r} of generation.{hint} Known: {', '.join(known)}."


def _texts(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{name} is {value!r:.80}; expected texts that are not empty.")
    return tuple(texts)


def spellings(text: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """How a tokenizer writes a text at the beginning, after a blank and inside of a word."""
    wanted = tokenizer.pattern(text)
    rows = [tokenizer.encode(text), tokenizer.encode(f" {text}")]
    word = tokenizer.convert_ids_to_tokens(rows[0][:1])
    bare = tokenizer.find_token(word[0].removeprefix("▁")) if word else None
    rows += [[bare, *rows[0][1:]]] if bare is not None else []
    return [row for row in dict.fromkeys(map(tuple, rows)) if wanted in tokenizer.bytes_of(row)]
