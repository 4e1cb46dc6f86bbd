"""A client's call: its body, the model that answers, and how work reaches that model's engine."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flagai.serve.bounds import Bounds
from flagai.serve.engine import Engine
from flagai.serve.fields import Body, Schema
from flagai.serve.refusals import RequestError, unprocessable
from flagai.serve.served import ServedModel
from flagai.serve.work import Ticket, WorkSpec

_MOST_SEEDS = 2**31
# So many texts, with so many characters together, are tokenized sooner than a thread begins.
_FEW, _SHORT = 8, 2048


@dataclass(frozen=True)
class Served:
    """A model and its engine."""

    model: ServedModel
    engine: Engine


@dataclass(frozen=True)
class EventStream:
    """An answer that comes in parts: server-sent events, each JSON, or a text as it is."""

    events: AsyncIterator[Any]


@dataclass
class ClientCall:
    """A call under way.

    Args:
        body: the fields of its body.
        served: the model that answers.
        bounds: the limits.
        notes: what the log says about it: numbers, never texts.
    """

    body: Mapping[str, Any]
    served: Served
    bounds: Bounds
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> ServedModel:
        """The model that answers."""
        return self.served.model

    async def generate(self, spec: WorkSpec) -> Ticket:
        """Have the scheduler answer texts; the ticket has the answers.

        Args:
            spec: what is asked.
        """
        ticket = await self.ticket(spec)
        await self.served.engine.do(ticket)
        self.count(ticket)
        return ticket

    async def ticket(self, spec: WorkSpec, *, stream: bool = False) -> Ticket:
        """What the scheduler takes."""
        spec = replace(spec, options=self.model.options(spec.options))
        asked = await _aside(self.model.build, spec, spec.entries)
        for each in asked:
            each.request.stream = stream
        return Ticket(spec, asked)

    async def streamed(self, ticket: Ticket, read: Callable[[Any], str]) -> AsyncIterator[tuple[int, str, Any]]:
        """The answers of a ticket as they are written.

        Args:
            ticket: from :meth:`ticket` with ``stream``.
            read: the text of an answer.

        Yields:
            The number of an answer, its next part, and at its end the whole answer.
        """
        shown = [""] * len(ticket.asked)
        open_ones = set(range(len(shown)))
        with self.served.engine.submitted(ticket):
            while open_ones:
                await ticket.news()
                for index in sorted(open_ones):
                    asked = ticket.asked[index]
                    answer = asked.answers()[0] if asked.request.done else None
                    text = asked.certain if answer is None else read(answer)
                    new = text[len(shown[index]) :] if text.startswith(shown[index]) else ""
                    shown[index] += new
                    if answer is not None:
                        open_ones.discard(index)
                    if new or answer is not None:
                        yield index, new, answer

    def count(self, ticket: Ticket) -> dict[str, int]:
        """The tokens of a ticket's prompts and answers, in OpenAI's form; noted for log and metrics."""
        prompt = sum(len(each.request.prompt.ids) for each in ticket.asked)
        written = sum(len(answer.ids) for each in ticket.asked for answer in each.request.hypotheses)
        usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        self.notes |= usage
        return usage

    async def encode(
        self, name: str, task: str, entries: Sequence[Any], options: Mapping[str, Any], most: int | None = None
    ) -> list[Any]:
        """The results of texts or pairs, which go to the model with those of other clients.

        Args:
            name: the field that has them, for errors.
            task: the task.
            entries: texts or pairs.
            options: of the task's pipeline.
            most: tokens of an entry; None for any number.

        Raises:
            RequestError: an entry is too long, or the model refuses it.
        """
        tokens = await _aside(self.model.count, entries, entries)
        long = [index for index, count in enumerate(tokens) if most is not None and count > most]
        if long:
            raise unprocessable(
                name, f"entry {long[0]} has {tokens[long[0]]} tokens, and the model reads {most}. Shorten it."
            )
        ticket = Ticket(WorkSpec(task, tuple(map(_frozen, entries)), self.model.options(options)), tokens=tokens)
        await self.served.engine.do(ticket)
        self.notes["prompt_tokens"] = sum(tokens)
        return ticket.results

    def seeds(self, given: int | None, texts: int, answers: int) -> list[int]:
        """One seed for each answer to each text: a text's n-th answer has the seed plus n."""
        first = random.randrange(_MOST_SEEDS) if given is None else given  # noqa: S311 - of sampling, not of secrets
        return [first + number for _ in range(texts) for number in range(answers)]


async def _aside(work: Callable[[Any], Any], given: Any, entries: Sequence[Any]) -> Any:
    """The result of some work on texts, in a thread of its own if it would make other clients wait."""
    if len(entries) > _FEW or sum(map(len, map(str, entries))) > _SHORT:
        return await asyncio.to_thread(work, given)
    return work(given)


def _frozen(entry: Any) -> Any:
    return tuple(entry) if isinstance(entry, list) else entry


def texts_of(value: str | list[str]) -> list[str]:
    """A text or a list of texts as a list."""
    return [value] if isinstance(value, str) else value


Handler = Callable[[ClientCall], Awaitable[Any]]
# The task with which a model answers a route; None if it cannot.
Ability = Callable[[ServedModel], str | None]


@dataclass(frozen=True)
class Endpoint:
    """A route that a model answers.

    Args:
        path: its path.
        summary: what it does.
        ability: which models can.
        body: its fields.
        handler: what answers.
        answer: the JSON schema of the answer.
        can: what a model must be able to do, in words.
        texts: the field that the limit of texts is about.
    """

    path: str
    summary: str
    ability: Ability
    body: Body
    handler: Handler
    answer: Schema
    can: str
    texts: str


def choose(models: Mapping[str, Served], name: str | None, ability: Ability, can: str) -> Served:
    """The model that answers.

    Args:
        models: all models, by their names, and their adapters.
        name: the one that is asked for; None if only one model can.
        ability: which models can.
        can: what it must be able to do, in words.

    Raises:
        RequestError: there is no such model, it cannot do it, or several can and none was named.
    """
    able = [each for each in models if ability(models[each].model) is not None]
    whole = [each for each in able if models[each].model.adapter is None]
    if name is None and len(whole) == 1:
        return models[whole[0]]
    if name is None:
        what = f"several models can {can}: name one of {', '.join(able)}" if able else f"no model here can {can}"
        raise unprocessable("model", f"{what}.")
    if name not in models:
        raise RequestError(404, f"model: there is no {name!r:.80} here, only {', '.join(models)}.", field="model")
    if name not in able:
        raise unprocessable("model", f"{name} cannot {can}. {', '.join(able) or 'No model here'} can.")
    return models[name]
