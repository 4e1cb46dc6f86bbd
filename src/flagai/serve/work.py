"""Work on its way between the front, which speaks HTTP, and the engine of a model, which is a thread."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# What ranks exchange: an operation, and its operands in plain data.
Order = tuple[Any, ...]
_numbers = itertools.count()


@dataclass(frozen=True)
class WorkSpec:
    """What is asked of a model, in plain data that processes can exchange.

    Args:
        task: the task's name.
        entries: the texts, or pairs of texts.
        options: what the task's pipeline takes by keyword.
        generates: whether the scheduler answers, or one call of the model.
        candidates: for generated tokens, how many candidates are told with their log-probabilities; None for no
            log-probabilities.
    """

    task: str
    entries: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    generates: bool = False
    candidates: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What entries that one call can answer have in common."""
        return self.task, tuple(sorted((name, str(value)) for name, value in self.options.items()))


class EngineModel(Protocol):
    """What an engine needs of a model."""

    @property
    def generates(self) -> bool:
        """Whether a scheduler answers some of its tasks."""

    @property
    def model(self) -> Any:
        """The model."""

    def build(self, spec: WorkSpec) -> list[Any]:
        """What the scheduler takes for work."""

    def call(self, task: str, options: Mapping[str, Any], entries: Sequence[Any]) -> list[Any]:
        """The results of entries, one each."""


class EngineWatch(Protocol):
    """What hears of an engine's iterations."""

    def step(self, lanes: int, seconds: float) -> None:
        """Called after a step of the scheduler."""

    def pack(self, texts: int, tokens: int, seconds: float) -> None:
        """Called after a call of an encoder."""


class Ticket:
    """A client's work: the engine fills it, the front waits for it.

    Args:
        spec: what is asked.
        asked: what the scheduler takes, where the spec generates.
        tokens: the tokens of each entry.
    """

    def __init__(self, spec: WorkSpec, asked: Sequence[Any] = (), tokens: Sequence[int] = ()) -> None:
        self.number = next(_numbers)
        self.spec = spec
        self.asked = list(asked)
        self.tokens = tokens
        self.results: list[Any] = [None] * len(spec.entries)
        self.missing = len(asked) if spec.generates else len(spec.entries)
        self.error: Exception | None = None
        self.canceled = False
        self._news = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether everything is answered, or nothing will be."""
        return self.missing == 0 or self.error is not None

    def wake(self) -> None:
        """Tell the front that there is something new; called in its thread."""
        self._news.set()

    async def news(self) -> None:
        """Wait until there is something new.

        Raises:
            Exception: what went wrong.
        """
        await self._news.wait()
        self._news.clear()
        if self.error is not None:
            raise self.error

    async def finish(self) -> None:
        """Wait until everything is answered.

        Raises:
            Exception: what went wrong.
        """
        while not self.done:
            await self.news()
        if self.error is not None:
            raise self.error
