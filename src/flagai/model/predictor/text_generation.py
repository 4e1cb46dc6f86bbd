"""Texts in, texts out: prompts, the decoding engine and the tokenizer joined."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from flagai.data.prepare.batch import checked_texts
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import TextProtocol, family_and_row
from flagai.generation import Decoding, Hypothesis, Prompt, Request, generate_each, stream
from flagai.model.base_model import BaseModel
from flagai.model.generation_defaults import end_tokens
from flagai.model.predictor.arguments import read_length, replace_unknown
from flagai.model.predictor.options import Options
from flagai.model.predictor.results import Written

logger = logging.getLogger(__name__)
_MOST_SEEDS = 2**62
# Texts of an endless list that are tokenized together.
_PART = 256


@dataclass(eq=False)
class TextRequest:
    """A text on its way through a scheduler: what the engine gets, and what its answers mean.

    Args:
        request: what :meth:`flagai.generation.Scheduler.submit` takes.
        generator: what made it.
        options: how to write.
    """

    request: Request
    generator: "TextGenerator"
    options: Options

    @property
    def certain(self) -> str:
        """The text that is certain so far, or the answer once it is there; one line per blank."""
        return self.generator.certain(self.request.certain, self.options, done=self.request.done)

    def answers(self) -> list[Written]:
        """The answers, best first; none before it is done."""
        return [
            self.generator.written(self.request.prompt, hypothesis, self.options)
            for hypothesis in self.request.hypotheses
        ]


class TextGenerator:
    """Generates text with one model.

    Args:
        model: a model that generates text.
        tokenizer: its tokenizer.
        memory: the most bytes of keys and values of a call; default a share of what is free.
    """

    def __init__(self, model: BaseModel, tokenizer: Tokenizer, memory: int | None = None) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.memory = memory
        self.family, self._class = family_and_row(model)

    def write(self, texts: Sequence[str], options: Options, max_length: int | None) -> list[list[Written]]:
        """Answers to each text, the best first.

        Args:
            texts: what the model is given.
            options: how to write.
            max_length: how many tokens of a prompt are read.
        """
        asked = self.requests(texts, options, max_length)
        self.answer([each.request for each in asked])
        return [each.answers() for each in asked]

    def answer(self, requests: Sequence[Request]) -> None:
        """Give requests their answers."""
        for _ in generate_each(self.model, requests, memory=self.memory):
            pass

    def requests(self, texts: Sequence[str], options: Options, max_length: int | None) -> list[TextRequest]:
        """What a scheduler takes for each text, see :meth:`write`."""
        texts = checked_texts(texts)
        options = self.seeded(options, len(texts))
        made = self._requests(texts, options, max_length, self._hooks(options))
        return [TextRequest(request, self, options) for request in made]

    def write_each(self, texts: Iterable[str], options: Options, max_length: int | None) -> Iterator[list[Written]]:
        """Answers to any number of texts, in their order; texts are taken as they are needed.

        Args:
            texts: see :meth:`write`.
            options: see :meth:`write`; without ``seeds``.
            max_length: see :meth:`write`.
        """
        coming = iter(texts)
        parts, hooks = iter(lambda: list(islice(coming, _PART)), []), self._hooks(options)
        requests = (
            request
            for number, part in enumerate(parts)
            for request in self._requests(checked_texts(part), options, max_length, hooks, number * _PART)
        )
        for request in generate_each(self.model, requests, memory=self.memory):
            yield TextRequest(request, self, options).answers()

    def _requests(
        self, texts: Sequence[str], options: Options, max_length: int | None, hooks: dict[str, Any], begin: int = 0
    ) -> list[Request]:
        """What goes to the engine for each text; the first has the number ``begin``."""
        found: dict[int, Request] = {}
        for protocol, indices in self._by_protocol(texts).items():
            prompts = self._prompts(protocol, [texts[index] for index in indices], options, max_length)
            own = self._decoding(protocol, options).of_texts(len(texts))
            for index, prompt in zip(indices, prompts, strict=True):
                found[index] = Request(prompt, own[index], number=begin + index, **hooks)
        return [found[index] for index in range(len(texts))]

    def blank_requests(self, protocol: TextProtocol, prompts: Sequence[Prompt], options: Options) -> list[Request]:
        """What a scheduler takes for prompts of one kind.

        Args:
            protocol: how the model is asked.
            prompts: the prompts.
            options: how to write.
        """
        own, hooks = self._decoding(protocol, options).of_texts(len(prompts)), self._hooks(options)
        return [
            Request(prompt, each, number=number, **hooks)
            for number, (prompt, each) in enumerate(zip(prompts, own, strict=True))
        ]

    def _hooks(self, options: Options) -> dict[str, Any]:
        processors = options.processors_for(self.tokenizer, self.model.config.vocab_size)
        return {"logits_processors": processors, "stop": self._stop(options)}

    def seeded(self, options: Options, count: int) -> Options:
        """Options with one seed per text where tokens are drawn and no common seed is given.

        Args:
            options: the options of the call.
            count: number of texts.

        Raises:
            InputError: ``seeds`` has not one seed per text.
        """
        given = options.decoding.get("seeds")
        common = options.decoding.get("seed") is not None or not options.decoding.get("do_sample")
        if common and given is None:
            return options
        return options.with_seeds(_seeds(self.model, given, count))

    def stream(self, text: str, options: Options, max_length: int | None) -> Iterator[str]:
        """The answer to one text, piece by piece; joined, they are the answer (one line per blank).

        Args:
            text: what the model is given.
            options: how to write.
            max_length: how many tokens of the prompt are read.
        """
        (text,) = checked_texts([text])
        protocol = self._protocol(text)
        prompts = self._prompts(protocol, [text], options, max_length)
        decoding = self._decoding(protocol, options)
        ids: dict[int, list[int]] = {}
        shown = ""
        for event in stream(self.model, prompts, decoding, memory=self.memory, **self._hooks(options)):
            ids.setdefault(event.piece, []).extend(event.ids)
            certain = self.certain(list(ids.values()), options, done=bool(event.hypotheses))
            if certain.startswith(shown) and certain != shown:
                yield certain[len(shown) :]
                shown = certain

    def certain(self, ids: Sequence[Sequence[int]], options: Options, *, done: bool) -> str:
        """The text that further tokens cannot change.

        Args:
            ids: those that are certain, for each blank.
            options: how to write.
            done: whether there are no further ones.
        """
        pieces = [self.piece(piece, options) for piece in ids]
        if pieces and not done:
            pieces[-1] = _certain(pieces[-1], options.stop)
        return "\n".join(pieces)

    def piece(self, ids: Sequence[int], options: Options) -> str:
        """The text of an answer's tokens, up to the first stop text."""
        return _before(self.tokenizer.decode(ids, skip_special_tokens=True), options.stop)

    def _decoding(self, protocol: TextProtocol, options: Options) -> Decoding:
        config, vocab_size = self.model.config, self.model.config.vocab_size
        ends = end_tokens(config, vocab_size) if protocol.configured_ends else ()
        decoding = options.for_model(protocol, self.tokenizer, vocab_size, ends)
        first = protocol.configured_start(config, self.tokenizer)
        return decoding if first is None else replace(decoding, start_id=first)

    def _prompts(
        self, protocol: TextProtocol, texts: Sequence[str], options: Options, max_length: int | None
    ) -> list[Prompt]:
        """The prompts, no longer than the model has positions for them and the answer."""
        max_length = read_length("input_max_length", max_length, self.model)
        positions = read_length("input_max_length", None, self.model)
        if positions is not None and max_length is not None and not protocol.spans:
            max_length = min(max_length, positions - options.max_new_tokens + 1)
            if max_length < 1:
                raise InputError(
                    f"{options.length_name} {options.max_new_tokens} leaves no room for a text: "
                    f"the model has {positions} positions. Lower it."
                )
        found = protocol.prompts(self.tokenizer, texts, max_length)
        self._check_cut(protocol, texts, found, options, max_length)
        return [replace(prompt, ids=tuple(replace_unknown(prompt.ids, self.tokenizer, self.model))) for prompt in found]

    def _check_cut(
        self, protocol: TextProtocol, texts: Sequence[str], found: list[Prompt], options: Options, limit: int | None
    ) -> None:
        """Tell or refuse that a prompt does not hold the whole of its text."""
        full = [row for row, prompt in enumerate(found) if limit is not None and len(prompt.ids) >= limit]
        whole = protocol.prompts(self.tokenizer, [texts[row] for row in full], None) if full else []
        sizes = [
            len(prompt.ids) for row, prompt in zip(full, whole, strict=True) if len(prompt.ids) > len(found[row].ids)
        ]
        if not sizes:
            return
        told = (
            f"{len(sizes)} of {len(texts)} texts do not fit: the longest has {max(sizes)} tokens, and the limit "
            f"is {limit} (input_max_length, and the model's positions without "
            f"{options.length_name}={options.max_new_tokens})."
        )
        if not options.truncation:
            raise InputError(f"{told} Shorten the text, or lower {options.length_name}.")
        logger.warning("%s They are cut.", told)

    def protocol(self, *, masked: bool) -> TextProtocol:
        """How the model is asked about texts with masks, or without."""
        if self.family is None or self._class is None or self.family.text is None:
            raise InputError(f"A {type(self.model).__name__} cannot generate text.")
        return self.family.text(self._class.name, masked)

    def _protocol(self, text: str) -> TextProtocol:
        masks = () if self.family is None else self.family.masks
        return self.protocol(masked=self.tokenizer.has_command(text, masks))

    def _by_protocol(self, texts: Sequence[str]) -> dict[TextProtocol, list[int]]:
        groups: dict[TextProtocol, list[int]] = {}
        for index, text in enumerate(texts):
            groups.setdefault(self._protocol(text), []).append(index)
        return groups

    def written(self, prompt: Prompt, hypothesis: Hypothesis, options: Options) -> Written:
        """An answer as text."""
        written = "\n".join(self.piece(piece, options) for piece in hypothesis.pieces)
        if not prompt.blanks or self.family is None or self.family.blanks is None:  # the answer stands alone
            return Written(written, hypothesis.score, hypothesis.finished, written)
        start = self.protocol(masked=True).start(self.tokenizer)
        whole = [*prompt.ids, *(token for piece in hypothesis.pieces for token in (*start, *piece))]
        text = self.tokenizer.decode(whole)
        end = self.tokenizer.get_command("eop")
        if end.Id == self.tokenizer.find_command_id("gMASK"):
            # GLM-10b-ch has one row for both; ends of pieces are left out above, so this is the prompt's mask.
            text = text.replace(end.token, "[gMASK]")
        return Written(text, hypothesis.score, hypothesis.finished, written)

    def _stop(self, options: Options) -> Callable[[int, Sequence[int]], bool] | None:
        if not options.stop:
            return None
        plain = partial(self.tokenizer.decode, skip_special_tokens=True)
        return lambda _row, ids: any(text in plain(ids) for text in options.stop)


def _seeds(model: BaseModel, given: Any, count: int) -> tuple[Any, ...]:
    """One seed per text, drawn from torch's generator if none are given: ranks that share a model draw the same."""
    if given is None:
        drawn = torch.randint(_MOST_SEEDS, [count])
        return tuple((drawn if model.sharding is None else model.sharding.broadcast(drawn)).tolist())
    if not isinstance(given, list | tuple) or len(given) != count:
        raise InputError(f"seeds is {given!r:.80}; expected a list with one seed for each of the {count} texts.")
    return tuple(given)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _certain(text: str, stops: Sequence[str]) -> str:
    """What further tokens cannot change: not the last word, whose pieces may still be joined, nor half a stop text."""
    held = max([1, *(len(stop) - 1 for stop in stops)])
    safe = text[:-held].rstrip("�")
    while safe and safe[-1].isascii() and not safe[-1].isspace():
        safe = safe[:-1]
    return safe.rstrip()
