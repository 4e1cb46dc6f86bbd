"""Conversations in, answers out: the chat format, the decoding engine and what becomes of an answer joined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from flagai.chat.format import ChatFormat, offered_tools
from flagai.chat.messages import Message, Tool
from flagai.chat.template_format import TemplateFormat
from flagai.checks import check_integer
from flagai.errors import InputError
from flagai.families.family import TextProtocol
from flagai.generation import Prompt, Request, Scheduler
from flagai.generation.protocol import remaining_positions
from flagai.model.generation_defaults import end_tokens
from flagai.model.predictor.options import Options
from flagai.model.predictor.results import Chatted
from flagai.model.predictor.text_generation import TextGenerator

Conversation = Sequence[Message | Mapping[str, object]]
# So many tokens has an answer at most, unless a caller says otherwise.
USUAL_LENGTH = 2048
# Options that choose another strategy than sampling, whose defaults then do not hold.
_STRATEGIES = ("num_beams", "penalty_alpha")


@dataclass(eq=False)
class ChatRequest:
    """A conversation on its way through a scheduler.

    Args:
        request: what :meth:`flagai.generation.Scheduler.submit` takes.
        chat: how the answer is read.
        tools: those that the model was offered.
        stop: texts at which the answer ends.
    """

    request: Request
    chat: ChatFormat
    tools: tuple[Tool, ...]
    stop: tuple[str, ...] = ()

    @property
    def num_prompt_tokens(self) -> int:
        """How many tokens the model reads."""
        return len(self.request.prompt.ids)

    @property
    def certain(self) -> str:
        """The content that is certain so far, or the answer's once it is there."""
        if self.request.done:
            return self.answers()[0].content
        ids = [token for piece in self.request.certain for token in piece]
        return _certain(self.chat.partial(ids, self.tools), self.stop)

    def answers(self) -> list[Chatted]:
        """The answers, best first; none before it is done."""
        found = []
        for hypothesis in self.request.hypotheses:
            message = self.chat.parse(hypothesis.ids, self.tools)
            if self.stop:
                message = replace(message, content=_before(message.content, self.stop).rstrip())
            found.append(
                Chatted(message.content, hypothesis.finished, message, self.num_prompt_tokens, len(hypothesis.ids))
            )
        return found


class ChatStream(Iterator[str]):
    """The content of an answer, piece by piece, as soon as each is certain; joined, the pieces are the content."""

    def __init__(self, model: Any, asked: ChatRequest, memory: int | None = None) -> None:
        self._asked = asked
        self._pieces = _pieces(model, asked, memory)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop writing."""
        self._pieces.close()  # type: ignore[attr-defined]  # a generator

    @property
    def result(self) -> Chatted:
        """The whole answer, with calls of tools; there only after the last piece.

        Raises:
            InputError: pieces are left.
        """
        if not self._asked.request.done:
            raise InputError("The answer is not finished: take all pieces before its result.")
        return self._asked.answers()[0]


class Chatting:
    """Answers conversations with one model.

    Args:
        generator: generates text with the model.
        chat: how its conversations are written.
    """

    def __init__(self, generator: TextGenerator, chat: ChatFormat) -> None:
        self.generator = generator
        self.chat = chat

    def answer(self, asked: Sequence[ChatRequest]) -> list[list[Chatted]]:
        """The answers to requests, best first."""
        self.generator.answer([each.request for each in asked])
        return [each.answers() for each in asked]

    def requests(
        self,
        conversations: Sequence[Conversation],
        tools: Sequence[Tool] | None,
        given: Mapping[str, Any],
    ) -> list[ChatRequest]:
        """What a scheduler takes for conversations; see ``Predictor.chat``."""
        protocol = self._protocol()
        prompts = [self._prompt(protocol, self.chat.encode(each, tools)) for each in conversations]
        options = self._options(prompts, given)
        options = self.generator.seeded(options, len(prompts))
        made = self.generator.blank_requests(protocol, prompts, options)
        return [
            ChatRequest(request, self.chat, offered_tools(each, tools), options.stop)
            for request, each in zip(made, conversations, strict=True)
        ]

    def _protocol(self) -> TextProtocol:
        """How the model generates, with the ends of the chat format."""
        own = self.generator.protocol(masked=False)
        ends = list(self.chat.stop_ids)
        config = self.generator.model.config
        if isinstance(self.chat, TemplateFormat):
            ends += end_tokens(config, config.vocab_size)
        if not ends:
            raise InputError(f"The chat format {self.chat.name!r} finds no token that ends an answer.")
        return replace(
            own,
            stop=lambda _: tuple(dict.fromkeys(ends)),
            never=lambda tokenizer: tuple(number for number in own.never(tokenizer) if number not in ends),
            configured_ends=False,
        )

    def _prompt(self, protocol: TextProtocol, ids: list[int]) -> Prompt:
        """The prompt that ids are; where the engine writes the token that starts an answer, it is the ids' last."""
        start = protocol.start(self.generator.tokenizer)
        if start and tuple(ids[-1:]) == start:
            return Prompt(tuple(ids[:-1]), (len(ids) - 2,))
        return Prompt(tuple(ids))

    def _options(self, prompts: Sequence[Prompt], given: Mapping[str, Any]) -> Options:
        searching = given.get("do_sample") is False or any(given.get(name) not in (None, 1) for name in _STRATEGIES)
        chosen = ({} if searching else dict(self.chat.sampling)) | dict(given)
        own = chosen.pop("max_new_tokens", None)
        room = [remaining_positions(self.generator.model, prompt) for prompt in prompts]
        least = min((number for number in room if number is not None), default=None)
        longest = max((len(prompt.ids) for prompt in prompts), default=0)
        if least is not None and least < 1:
            raise InputError(f"The conversation has {longest} tokens, more than the model has positions. Shorten it.")
        wanted = USUAL_LENGTH if own is None else check_integer("max_new_tokens", own)
        if own is None and least is not None:
            wanted = min(wanted, least)
        if least is not None and wanted > least:
            raise InputError(
                f"The conversation has {longest} tokens, so that an answer has room for {least}. Lower max_new_tokens "
                f"({wanted}), or shorten the conversation."
            )
        return Options.read(wanted, chosen)


def _pieces(model: Any, asked: ChatRequest, memory: int | None) -> Iterator[str]:
    asked.request.stream = True
    shown = ""
    with Scheduler(cast(Any, model), memory=memory) as scheduler:
        scheduler.submit(asked.request)
        while scheduler.has_work:
            scheduler.step()
            certain = asked.certain
            if certain.startswith(shown) and certain != shown:
                yield certain[len(shown) :]
                shown = certain


def _before(text: str, stops: Sequence[str]) -> str:
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _certain(text: str, stops: Sequence[str]) -> str:
    """A text without the half of a stop text at its end."""
    text = _before(text, stops)
    half = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - half].rstrip() if half else text
